"""l_inf at small rank: every row of the image mixes r sign patterns, so rank and radius hold by construction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.factors import Factors
from art_lowrank.attack.loop import chosen_of
from art_lowrank.attack.norms import edges, simplex
from art_lowrank.attack.orthonormal import orthonormal
from art_lowrank.attack.power import unswallowed
from art_lowrank.attack.start import Problem, gaussian

FIRST_STEP = 1.0  # of the patterns, in units of 1; it falls linearly to 0
MIXING = 10.0  # how much longer the steps of the mixtures are
ITERATIONS, ROUNDS = 3, 4  # power iterations, then assignments of rows to patterns, on the first gradient


@dataclass(frozen=True)
class Pattern:
    """delta = eps U S, the rows of U (h, r) in the unit l1 ball and S (r, w) in [-1, 1], for every channel.

    |delta| <= eps and rank <= r then hold without any projection of delta. A radius that differs inside an image is
    replaced by the largest product of a number a row and a number a column below it (see `edges`).
    """

    rank: int
    steps: int
    seed: int
    peak: float = FIRST_STEP

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """No perturbation and random patterns; later restarts random mixtures of them; or the given factors."""
        n, c, h, w = problem.x.shape
        patterns = gaussian((1, c, self.rank, w), self.seed, 2 * restart, problem.x).sign().expand(n, -1, -1, -1)
        if init is not None:
            return self._fitted(init, patterns, problem)
        if restart == 0:
            return Factors(problem.x.new_zeros((n, c, h, self.rank)), patterns)
        mixtures = gaussian((1, c, h, self.rank), self.seed, 2 * restart + 1, problem.x).expand(n, -1, -1, -1)
        return Factors(rows_in_l1(mixtures / mixtures.abs().sum(-1, keepdim=True)), patterns)

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return problem.x + self.final(factors, problem).dense()

    def final(self, factors: Factors, problem: Problem) -> Factors:
        rows, columns = edges(problem.eps)
        return Factors(factors.left * rows, factors.right * columns)

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return unswallowed(i, gradient, shown, problem)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        """The mixtures climb their gradient, the patterns the sign of theirs; from nothing, `_first` finds both."""
        rows, columns = edges(problem.eps)
        gradient = gradient * rows * columns
        moved = self._moved(i, factors, gradient, problem)
        if i:
            return moved
        first, share = self._first(factors.right, gradient), self._share(problem)
        if share is not None:
            first = Factors(first.left * share.clamp_max(1.0), first.right)
        return chosen_of((factors.left == 0).flatten(1).all(1), first, moved)

    def _share(self, problem: Problem) -> Tensor | None:
        """The caller's step in units of eps, (n, 1, 1, 1)."""
        if problem.step_size is None:
            return None
        return torch.where(problem.eps > 0, problem.step_size / problem.eps, 0.0).amax((1, 2, 3), keepdim=True)

    def _moved(self, i: int, factors: Factors, gradient: Tensor, problem: Problem) -> Factors:
        left, right = factors
        share = self._share(problem)
        pace = self.peak * (1 - i / self.steps) if share is None else share
        towards_left = gradient @ right.mT
        towards_left = towards_left / towards_left.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        towards_right = (left.mT @ gradient).sign()
        return Factors(rows_in_l1(left + MIXING * pace * towards_left), (right + pace * towards_right).clamp(-1, 1))

    def _first(self, sketch: Tensor, gradient: Tensor) -> Factors:
        """k lines on the signs of the gradient: every row takes one pattern or its negative, patterns follow rows."""
        signs, probe = gradient.sign(), sketch.mT
        for _ in range(ITERATIONS):
            probe = orthonormal(signs.mT @ (signs @ probe))
        right = probe.mT.sign()
        for _ in range(ROUNDS):
            score = gradient @ right.mT
            chosen = score.abs().argmax(-1, keepdim=True)
            left = torch.zeros_like(score).scatter(-1, chosen, score.gather(-1, chosen).sign())
            towards = (left.mT @ gradient).sign()
            right = torch.where(towards == 0, right, towards)
        return Factors(left, right)

    def _fitted(self, init: Factors, patterns: Tensor, problem: Problem) -> Factors:
        """Foreign factors as mixtures and patterns, rows that leave the l1 ball shortened, missing patterns random."""
        rows, columns = edges(problem.eps)
        right = torch.where(columns > 0, init.right / columns, 0.0)
        height = right.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        left = torch.where(rows > 0, init.left * height.mT / rows, 0.0)
        left = left / left.abs().sum(-1, keepdim=True).clamp_min(1.0)
        missing = self.rank - left.shape[-1]
        left = torch.cat([left, left.new_zeros((*left.shape[:-1], missing))], -1)
        return Factors(left, torch.cat([right / height, patterns[..., :missing, :]], -2))


def rows_in_l1(mixtures: Tensor) -> Tensor:
    """Every row (the last axis) projected on the unit l1 ball."""
    flat = mixtures.flatten(0, -2)
    return (simplex(flat.abs(), flat.new_ones(len(flat))) * flat.sign()).view_as(mixtures)
