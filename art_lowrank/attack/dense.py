"""rank="full": projected gradient descent on the whole image, in any ball, with the schedule and losses of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp, per_image
from art_lowrank.attack.factors import Factors, identity
from art_lowrank.attack.power import FIRST_STEP, stride
from art_lowrank.attack.start import Problem, gaussian


@dataclass(frozen=True)
class Dense:
    """delta + a G, clipped to the box and projected on the ball: PGD. The state is delta times the unit matrix."""

    steps: int
    seed: int
    peak: float = FIRST_STEP

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """No perturbation; later restarts a random one at the edge of the ball; or the given one; inside the box."""
        delta = torch.zeros_like(problem.x)
        if init is not None:
            delta = problem.ball.project(init.dense(), problem.eps)
        elif restart:
            noise = gaussian((1, *problem.x.shape[1:]), self.seed, 2 * restart, problem.x)
            delta = problem.ball.spread(noise, problem.eps)
        return identity(clamp(problem.x + delta, problem.box) - problem.x)

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return problem.x + factors.left

    def final(self, factors: Factors, problem: Problem) -> Factors:
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return gradient

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        pace = stride(i, self.steps, problem, self.peak)
        towards = problem.ball.along(gradient, size) * (per_image(pace) if pace.ndim == 1 else pace)
        delta = clamp(problem.x + factors.left + towards, problem.box) - problem.x
        return Factors(problem.ball.project(delta, problem.eps), factors.right)
