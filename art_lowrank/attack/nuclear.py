"""The nuclear ball at rank r: the step of `power`, then the singular values projected on the l1 ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp, per_image
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.norms import simplex
from art_lowrank.attack.orthonormal import leading
from art_lowrank.attack.power import Power
from art_lowrank.attack.start import Problem

ROUNDS = 2  # of shortening until the perturbation fits after the box
SLACK = 1e-6  # of eps: how far inside the ball the search stays, for the last rounding


@dataclass(frozen=True)
class NuclearPower(Power):
    """`power` with another way back into the ball."""

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """As `power` does, inside the ball."""
        return held(super().start(problem, restart, init), problem)

    def _back(self, moved: Factors, problem: Problem) -> Factors:
        return held(projected(moved, problem.eps * (1 - SLACK)), problem)


def projected(factors: Factors, eps: Tensor) -> Factors:
    """Factors with orthonormal `left` projected on the nuclear ball: every singular value less by the same amount."""
    basis, found = leading(factors.left.flatten(0, 1), factors.right.flatten(0, 1), factors.right.shape[-2])
    right = found.view_as(factors.right)  # its rows are orthogonal: their lengths are the singular values
    values: Tensor = torch.linalg.vector_norm(right, dim=-1)
    scale = simplex(values, eps) / values.clamp_min(1e-30)
    return Factors(basis.view_as(factors.left), right * scale.unsqueeze(-1))


def held(factors: Factors, problem: Problem) -> Factors:
    """Shortened until the perturbation is in the ball after box and mask, which can raise its nuclear norm."""
    for _ in range(ROUNDS):
        realised = clamp(problem.x + factors.dense(), problem.box) - problem.x
        realised = realised if problem.mask is None else realised * problem.mask
        ratio = problem.ball.excess(realised, problem.eps).nan_to_num(0.0) * (1 + SLACK)
        factors = Factors(factors.left / per_image(ratio.clamp_min(1.0)).to(realised), factors.right)
    return factors
