"""Our search: gradient ascent on the rank-r part of the l2 sphere by one block power step a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import inward, length, per_image, shrink
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.start import Problem, gaussian

FIRST_STEP = 4.0  # of the schedule, in units of eps; it falls linearly to 0
FEW = 5  # gradients up to which a second power iteration pays for its cost
NUDGE = 1e-3  # of eps: how far ahead of the images the first step looks for the box
EXTRA, FIRST, PIXELS = 12, 4, 12  # more columns and iterations (one every 12 pixels) on the first, random sketch


@dataclass(frozen=True)
class Power:
    """delta = Q R with orthonormal Q: delta + a G, made rank r by a block power step warm-started at the last R."""

    rank: int
    steps: int
    seed: int

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """No perturbation yet, and a random sketch as `right`; later restarts start at a random one of length eps."""
        n, c, h, w = problem.x.shape
        sketch = gaussian((1, c, self.rank, w), self.seed, 2 * restart, problem.x).expand(n, -1, -1, -1)
        if init is not None:
            return self._padded(init, sketch, problem.eps)
        if restart == 0:
            return Factors(problem.x.new_zeros((n, c, h, self.rank)), sketch)
        left = orthonormal(gaussian((1, c, h, self.rank), self.seed, 2 * restart + 1, problem.x)).expand(n, -1, -1, -1)
        return Factors(left, sketch).scaled(problem.eps / length(sketch))

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        left, right = _matrices(factors)
        return torch.baddbmm(problem.x.flatten(0, 1), left, right).view_as(problem.x)

    def final(self, factors: Factors, eps: Tensor) -> Factors:
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        """Without what the box would swallow; at the first step, where pixels lie on its bounds, only what leaves."""
        shown = shown.to(gradient.dtype)
        if i == 0:
            nudge = NUDGE * problem.eps / length(gradient).clamp_min(1e-30)
            shown = torch.addcmul(shown, gradient, per_image(nudge))
        return inward(gradient, shown, problem.box)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        """The best rank-r part of delta + a G that the power iterations find from the last R, scaled to the sphere."""
        n, c = gradient.shape[:2]
        pace = (stride(i, self.steps, problem) / size.clamp_min(1e-30)).repeat_interleave(c).reshape(-1, 1, 1)
        (left, right), matrix = _matrices(factors), gradient.flatten(0, 1)
        found = right if i else torch.cat([right, self._extra(problem.x)], -2)
        for k in reversed(range(self._iterations(i, gradient))):
            probe = found.mT
            basis = torch.baddbmm(left @ (right @ probe), matrix, probe * pace)
            basis = basis if k % 2 else orthonormal(basis)  # every second time is often enough for float32
            found = torch.baddbmm((basis.mT @ left) @ right, basis.mT * pace, matrix)
        if i == 0:
            basis, found = leading(basis, found, self.rank)
        norm = torch.linalg.vector_norm(found.view(n, -1), dim=1)
        scale = problem.eps / norm.clamp_min(1e-30) if problem.step_size is None else shrink(norm, problem.eps)
        return Factors(basis.view_as(factors.left), found.view_as(factors.right) * per_image(scale))

    def _iterations(self, i: int, gradient: Tensor) -> int:
        if i == 0:
            return max(FIRST, min(gradient.shape[2:]) // PIXELS)
        return 2 if self.steps <= FEW else 1

    def _extra(self, x: Tensor) -> Tensor:
        """More random rows for the first sketch, as many as the images have room for."""
        n, c, h, w = x.shape
        rows = min(EXTRA, h - self.rank, w - self.rank)
        return gaussian((1, c, rows, w), self.seed, -1, x).expand(n, -1, -1, -1).flatten(0, 1)

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


def _matrices(factors: Factors) -> tuple[Tensor, Tensor]:
    """The factors of all images and channels in one row, as the batched products want them."""
    return factors.left.flatten(0, 1), factors.right.flatten(0, 1)


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns with the same span (Householder, so that dependent columns do no harm)."""
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def leading(basis: Tensor, found: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The `rank` leading singular directions of basis @ found (orthonormal basis), by found's Gram matrix."""
    unit = found / found.abs().amax((-2, -1), keepdim=True).clamp_min(1e-30)
    directions = torch.linalg.eigh(unit @ unit.mT).eigenvectors[..., -rank:]
    return basis @ directions, directions.mT @ found
