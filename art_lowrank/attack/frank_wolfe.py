"""Frank-Wolfe on the nuclear and group-nuclear balls, after Kazemi, Kerdreux and Wang: one atom a gradient, no SVD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_lowrank.attack.balls import per_image
from art_lowrank.attack.factors import Factors, identity
from art_lowrank.attack.norms import Matrices
from art_lowrank.attack.nuclear import SLACK, held
from art_lowrank.attack.orthonormal import leading, orthonormal
from art_lowrank.attack.power import unswallowed
from art_lowrank.attack.start import Problem, gaussian

ITERATIONS, COLUMNS = 10, 8  # of the block power method that finds a leading singular pair, to 1e-3 at 64 x 64


@dataclass(frozen=True)
class FrankWolfe:
    """delta + g (V - delta) with g = 1 - i / steps, where V maximises <V, G> over the ball: one atom of rank one.

    It starts at 0, which is in the ball, and stays in it; the gradient is that at the clamped images, and delta is
    shortened where the box raises its norm. With a `rank` the smallest singular values beyond it are dropped.
    """

    rank: int | None  # None: the state is dense
    steps: int
    seed: int

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """No perturbation; later restarts a random one of the ball; or the given one."""
        n, c, _, w = problem.x.shape
        given = init.dense() if init is not None else torch.zeros_like(problem.x)
        if init is None and restart:
            noise = gaussian((1, *problem.x.shape[1:]), self.seed, 2 * restart, problem.x).expand_as(problem.x)
            given = problem.ball.spread(noise, problem.eps)
        ratio = problem.ball.excess(given, problem.eps * (1 - SLACK)).nan_to_num(0.0).clamp_min(1.0)
        given = given / per_image(ratio).to(given)
        if self.rank is None:
            return identity(given)
        return truncated_sum(Factors(given, torch.eye(w).to(given).expand(n, c, w, w)), self.rank)

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return problem.x + (factors.left if self.rank is None else factors.dense())

    def final(self, factors: Factors, problem: Problem) -> Factors:
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        """As at a first step: pixels on a bound keep what leads inwards, since one atom would leave them there."""
        return unswallowed(0, gradient, shown, problem)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        ball, share = matrices_of(problem), 1 - i / self.steps
        left, right = atom(ball.split(gradient), problem.eps * (1 - SLACK), self.seed)
        if self.rank is None:
            towards = ball.join(left @ right, gradient)
            return held(Factors(torch.lerp(factors.left, towards, share), factors.right), problem)
        grown = Factors(
            torch.cat([factors.left * (1 - share), left * share], -1), torch.cat([factors.right, right], -2)
        )
        return held(truncated_sum(grown, self.rank), problem)

    def gap(self, factors: Factors, gradient: Tensor, problem: Problem) -> Tensor:
        """<V - delta, G>: at most this much could the loss still rise in the ball, if it were concave."""
        left, right = atom(matrices_of(problem).split(gradient), problem.eps, self.seed)
        best = (left @ right * matrices_of(problem).split(gradient)).sum((1, 2, 3))
        return best - ((self.moved(factors, problem) - problem.x) * gradient).sum((1, 2, 3))


def matrices_of(problem: Problem) -> Matrices:
    """The ball of the problem, which is one of singular values."""
    if not isinstance(problem.ball, Matrices):
        raise TypeError(f"Frank-Wolfe needs a ball of singular values, not {problem.ball!r}")
    return problem.ball


def atom(matrices: Tensor, eps: Tensor, seed: int) -> Factors:
    """eps u v^T in the matrix (n, k, p, q) with the largest singular value, zero in the others."""
    n, k, _, q = matrices.shape
    columns = min(COLUMNS, *matrices.shape[2:])
    probe = gaussian((1, k, q, columns), seed, -2, matrices).expand(n, -1, -1, -1)
    for _ in range(ITERATIONS):
        probe = orthonormal(matrices.mT @ orthonormal(matrices @ probe))
    image = matrices @ probe
    turn = torch.linalg.eigh(image.mT @ image).eigenvectors[..., -1:]  # Rayleigh-Ritz: the best pair the block holds
    image, probe = image @ turn, probe @ turn
    values: Tensor = torch.linalg.vector_norm(image, dim=(2, 3))
    chosen = torch.zeros_like(values).scatter(1, values.argmax(1, keepdim=True), 1.0)
    weight = (chosen * eps.unsqueeze(1))[..., None, None]
    return Factors(unit(image) * weight, probe.mT)


def unit(columns: Tensor) -> Tensor:
    """Columns of length 1; zero where they were."""
    norm: Tensor = torch.linalg.vector_norm(columns, dim=-2, keepdim=True)
    return columns / norm.clamp_min(1e-30)


def truncated_sum(factors: Factors, rank: int) -> Factors:
    """The product of the factors made rank `rank`, as orthonormal columns times the rest."""
    n, c = factors.left.shape[:2]
    basis = orthonormal(factors.left.flatten(0, 1))
    found = basis.mT @ factors.left.flatten(0, 1) @ factors.right.flatten(0, 1)
    basis, found = leading(basis, found, rank)
    return Factors(basis.view(n, c, *basis.shape[1:]), found.view(n, c, *found.shape[1:]))
