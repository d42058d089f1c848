"""rank="full": projected gradient descent on the whole image, with the schedule and losses of `power`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp, length, per_image, shrink
from art_lowrank.attack.factors import Factors, identity
from art_lowrank.attack.power import stride
from art_lowrank.attack.start import Problem, gaussian


@dataclass(frozen=True)
class Dense:
    """delta + a G, clipped to the box and scaled into the ball: PGD. The state is delta times the unit matrix."""

    steps: int
    seed: int

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """No perturbation; later restarts a random one of length eps."""
        if init is not None:
            given = init.dense()
            return identity(given * per_image(shrink(length(given), problem.eps)))
        if restart == 0:
            return identity(problem.x.new_zeros(problem.x.shape))
        noise = gaussian((1, *problem.x.shape[1:]), self.seed, 2 * restart, problem.x)
        return identity(noise * per_image(problem.eps) / length(noise))

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return problem.x + factors.left

    def final(self, factors: Factors, eps: Tensor) -> Factors:
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return gradient

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        pace = per_image(stride(i, self.steps, problem) / size.clamp_min(1e-30))
        delta = clamp(torch.addcmul(problem.x + factors.left, gradient, pace), problem.box) - problem.x
        return Factors(delta * per_image(shrink(length(delta), problem.eps)), factors.right)
