"""Our search: gradient ascent on the rank-r part of the l2 sphere by one block power step a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import length, per_image, shrink
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.start import Problem, gaussian

FIRST_STEP = 4.0  # of the schedule, in units of eps; it falls linearly to 0
FEW = 5  # gradients from which on a second power iteration pays for its cost


@dataclass(frozen=True)
class Power:
    """delta = Q R with orthonormal Q: delta + a G, made rank r by a block power step warm-started at the last R."""

    rank: int
    steps: int

    def start(self, problem: Problem, seed: int, restart: int, init: Factors | None) -> Factors:
        """No perturbation yet, and a random sketch as `right`; later restarts start at a random one of length eps."""
        n, c, h, w = problem.x.shape
        sketch = gaussian((1, c, self.rank, w), seed, 2 * restart, problem.x).expand(n, -1, -1, -1)
        if init is not None:
            return self._padded(init, sketch, problem.eps)
        if restart == 0:
            return Factors(problem.x.new_zeros((n, c, h, self.rank)), sketch)
        left = orthonormal(gaussian((1, c, h, self.rank), seed, 2 * restart + 1, problem.x)).expand(n, -1, -1, -1)
        return Factors(left, sketch).scaled(problem.eps / length(sketch))

    def delta(self, factors: Factors, eps: Tensor) -> Tensor:
        return factors.dense()

    def final(self, factors: Factors, eps: Tensor) -> Factors:
        return factors

    def step(self, i: int, factors: Factors, gradient: Tensor, moved: Tensor, problem: Problem) -> Factors:
        """One block power step (two for few gradients, twice as many at the start, where the sketch is random)."""
        iterations = (2 if self.steps <= FEW else 1) * (2 if i == 0 else 1)
        size = length(gradient)
        pace = per_image(stride(i, self.steps, problem) / size.clamp_min(1e-30))
        left, right = factors
        found = right
        for _ in range(iterations):
            basis = orthonormal(left @ (right @ found.mT) + (gradient @ found.mT) * pace)
            found = (basis.mT @ left) @ right + (basis.mT @ gradient) * pace
        norm = length(found)
        scale = problem.eps / norm.clamp_min(1e-30) if problem.step_size is None else shrink(norm, problem.eps)
        usable = per_image((size > 0) & (norm > 0))
        return Factors(torch.where(usable, basis, left), torch.where(usable, found * per_image(scale), right))

    def _padded(self, init: Factors, sketch: Tensor, eps: Tensor) -> Factors:
        """Foreign factors with orthonormal columns, inside the ball, the missing columns empty over a random sketch."""
        basis, mix = torch.linalg.qr(init.left)
        right = (mix @ init.right) * per_image(shrink(length(mix @ init.right), eps))
        missing = self.rank - basis.shape[-1]
        left = torch.cat([basis, basis.new_zeros((*basis.shape[:-1], missing))], -1)
        return Factors(left, torch.cat([right, sketch[..., :missing, :]], -2))


def stride(i: int, steps: int, problem: Problem) -> Tensor:
    """Length of step i: the caller's, or 4 eps falling linearly to 0."""
    return FIRST_STEP * (1 - i / steps) * problem.eps if problem.step_size is None else problem.step_size


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns with the same span (Householder, so that dependent columns do no harm)."""
    return torch.linalg.qr(columns).Q
