"""l_inf at larger rank: sign steps, then alternating projections on the matrices of rank r and on the ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.factors import Factors
from art_lowrank.attack.orthonormal import orthonormal
from art_lowrank.attack.power import stride, unswallowed
from art_lowrank.attack.start import Problem, gaussian

FIRST_STEP = 1.0  # in units of eps
ROUNDS = 10
FIRST = 3  # power iterations on the first, random sketch


@dataclass(frozen=True)
class Alternating:
    """delta + a sign(G), then `rounds` times clipped to the ball and made rank r by one block power iteration.

    Rows that still leave the ball are shortened in the end, which raises no rank.
    """

    rank: int
    steps: int
    seed: int
    peak: float = FIRST_STEP
    rounds: int = ROUNDS

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """No perturbation over a random sketch; later restarts a random perturbation in the ball; or the given one."""
        n, c, h, w = problem.x.shape
        sketch = gaussian((1, c, self.rank, w), self.seed, 2 * restart, problem.x).expand(n, -1, -1, -1)
        if init is not None:
            missing = self.rank - init.left.shape[-1]
            left = torch.cat([init.left, init.left.new_zeros((n, c, h, missing))], -1)
            return inside(Factors(left, torch.cat([init.right, sketch[..., :missing, :]], -2)), problem.eps)
        if restart == 0:
            return Factors(problem.x.new_zeros((n, c, h, self.rank)), sketch)
        left = orthonormal(gaussian((1, c, h, self.rank), self.seed, 2 * restart + 1, problem.x)).expand(n, -1, -1, -1)
        return inside(Factors(left * problem.eps.amax((1, 2, 3), keepdim=True), sketch), problem.eps)

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return problem.x + factors.dense()

    def final(self, factors: Factors, problem: Problem) -> Factors:
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return unswallowed(i, gradient, shown, problem)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        delta = factors.dense() + stride(i, self.steps, problem, self.peak) * gradient.sign()
        right = factors.right
        for _ in range(FIRST if i == 0 else 1):
            left, right = compressed(delta, right)
        for _ in range(self.rounds):
            left, right = compressed(problem.ball.project(left @ right, problem.eps), right)
        return inside(Factors(left, right), problem.eps)


def compressed(delta: Tensor, right: Tensor) -> Factors:
    """delta made rank r by one block power iteration from the rows of `right`."""
    left = orthonormal(delta @ right.mT)
    return Factors(left, left.mT @ delta)


def inside(factors: Factors, eps: Tensor) -> Factors:
    """The rows that leave the l_inf ball shortened until they fit."""
    excess = (factors.dense().abs() / eps).nan_to_num(0.0, torch.inf).amax(-1, keepdim=True)
    return Factors(factors.left / excess.clamp_min(1.0), factors.right)
