"""Our search: gradient ascent on the rank-r part of the l2 sphere by one block power step a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import inward, length, per_image, shrink
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.orthonormal import leading, orthonormal
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
    peak: float = FIRST_STEP

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
        left, right = factors.left.flatten(0, 1), factors.right.flatten(0, 1)
        return torch.baddbmm(problem.x.flatten(0, 1), left, right).view_as(problem.x)

    def final(self, factors: Factors, problem: Problem) -> Factors:
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return unswallowed(i, gradient, shown, problem)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        """The best rank-r part of delta + a G that the power iterations find from the last R, scaled to the sphere."""
        pace = per_size(stride(i, self.steps, problem, self.peak), size)
        extra = None if i else self._extra(problem.x)
        return self._back(climbed(factors, gradient, pace, self._iterations(i, gradient), extra), problem)

    def _back(self, moved: Factors, problem: Problem) -> Factors:
        """On the sphere again, or with the caller's own step length in the ball."""
        norm = length(moved.right)
        scale = problem.eps / norm.clamp_min(1e-30) if problem.step_size is None else shrink(norm, problem.eps)
        return moved.scaled(scale)

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


def stride(i: int, steps: int, problem: Problem, peak: float = FIRST_STEP) -> Tensor:
    """Length of step i: the caller's, or `peak` times eps falling linearly to 0."""
    return peak * (1 - i / steps) * problem.eps if problem.step_size is None else problem.step_size


def per_size(length_of_step: Tensor, size: Tensor) -> Tensor:
    """What to multiply gradients of this length by; 0 for dead ones, where 1 / 0 times a sketch would overflow."""
    return torch.where(size > 0, length_of_step / size, 0.0)


def unswallowed(i: int, gradient: Tensor, shown: Tensor, problem: Problem) -> Tensor:
    """Without what the box would swallow; at the first step, where pixels lie on its bounds, only what leaves."""
    shown = shown.to(gradient.dtype)
    if i == 0:
        radius = problem.eps if problem.eps.ndim == 1 else problem.eps.amax((1, 2, 3))
        nudge = NUDGE * radius / length(gradient).clamp_min(1e-30)
        shown = torch.addcmul(shown, gradient, per_image(nudge))
    return inward(gradient, shown, problem.box)


def climbed(factors: Factors, gradient: Tensor, pace: Tensor, iterations: int, extra: Tensor | None) -> Factors:
    """left @ right + pace * gradient made rank r by block power iterations from `right`; left comes back orthonormal.

    `extra` are more rows of a sketch (images and channels in one axis): the r leading directions of all are kept.
    """
    n, c = gradient.shape[:2]
    steps = pace.repeat_interleave(c).reshape(-1, 1, 1)
    left, right, matrix = factors.left.flatten(0, 1), factors.right.flatten(0, 1), gradient.flatten(0, 1)
    found = right if extra is None else torch.cat([right, extra], -2)
    for k in reversed(range(iterations)):
        probe = found.mT
        basis = torch.baddbmm(left @ (right @ probe), matrix, probe * steps)
        basis = basis if k % 2 else orthonormal(basis)  # every second time is often enough for float32
        found = torch.baddbmm((basis.mT @ left) @ right, basis.mT * steps, matrix)
    if extra is not None:
        basis, found = leading(basis, found, right.shape[-2])
    return Factors(basis.view(n, c, *basis.shape[1:]), found.view(n, c, *found.shape[1:]))
