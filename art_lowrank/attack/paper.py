"""LoRa-PGD as published (Savostianova, Zangrando, Tudisco, arXiv 2410.12607), with closed-form factor gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from art_lowrank.attack.balls import length, per_image
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.start import Problem, gaussian

XI = 1e-10  # the published guard against division by zero; it sets the scale of the first step


@dataclass(frozen=True)
class Paper:
    """x_adv = clamp(x + eps U V / |U V|), both factors moved by their own unit-length gradients."""

    rank: int
    seed: int
    batch: int  # images of the call: the published loss is their mean, which matters next to xi alone

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """U random of unit length and V zero, or the given factors as they are."""
        if init is not None:
            missing = self.rank - init.left.shape[-1]  # empty columns: their gradients are zero and they stay empty
            return Factors(pad(init.left, (0, missing)), pad(init.right, (0, 0, 0, missing)))
        n, c, h, w = problem.x.shape
        left = gaussian((1, c, h, self.rank), self.seed, 2 * restart, problem.x)
        left = (left / per_image(length(left))).expand(n, -1, -1, -1)
        return Factors(left, problem.x.new_zeros((n, c, self.rank, w)))

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        product = factors.dense()
        return problem.x + product * per_image(problem.eps / (length(product) + XI))

    def final(self, factors: Factors, problem: Problem) -> Factors:
        return factors.scaled(problem.eps / (factors.norm() + XI))

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        """On unclipped pixels; exactly at a bound counts as such, as torch's clamp had it at the time."""
        if problem.box is None:
            return gradient
        low, high = problem.box
        moved = self.moved(factors, problem)
        return gradient.masked_fill((moved < low) | (moved > high), 0.0)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        """D = U V, s = |D| + xi, G the gradient, clipped pixels zero: dL/dD = eps (G / s - D <G, D> / (|D| s^2))."""
        left, right = factors
        along = gradient @ right.mT  # the gradient of <G, U V> in U
        gram_left, gram_right = left.mT @ left, right @ right.mT
        norm = (gram_left * gram_right).sum((1, 2, 3)).clamp_min(0).sqrt()
        bend = per_image(torch.where(norm > 0, (left * along).sum((1, 2, 3)) / (norm * (norm + XI)), 0.0))
        scale = per_image(problem.eps / (norm + XI))
        towards_left = scale * (along - bend * (left @ gram_right))
        towards_right = scale * (left.mT @ gradient - bend * (gram_left @ right))
        return Factors(left + self._unit(towards_left), right + self._unit(towards_right))

    def _unit(self, direction: Tensor) -> Tensor:
        return direction / (per_image(length(direction)) + XI * self.batch)
