"""use_budget=True: perturbations as long as the box lets them be, for images whose pixels lie on its bounds (MNIST)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp, length, per_image
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.loop import Search, perturbed
from art_lowrank.attack.start import Problem

ROUNDS = 6
LONGEST = 10.0  # times eps: an image that is all on the bounds would take any factor


@dataclass(frozen=True)
class Budgeted:
    """A search whose every iterate is scaled until its clamped perturbation is eps long; scaling changes no rank."""

    search: Search

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        return self.search.start(problem, restart, init)

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return self.search.moved(factors, problem)

    def final(self, factors: Factors, problem: Problem) -> Factors:
        return self.search.final(factors, problem)

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return self.search.admissible(i, gradient, shown, factors, problem)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        moved = self.search.step(i, factors, gradient, size, problem)
        scale = torch.ones_like(problem.eps)
        for _ in range(ROUNDS):
            stretched = perturbed(self.search, _times(moved, scale), problem)
            realised = length(clamp(stretched, problem.box) - problem.x)
            scale = (scale * problem.eps / realised.clamp_min(1e-30)).clamp(1.0, LONGEST)
        return _times(moved, scale)


def _times(factors: Factors, scale: Tensor) -> Factors:
    return Factors(factors.left * per_image(scale), factors.right)  # `left`, because rank "full" keeps all there
