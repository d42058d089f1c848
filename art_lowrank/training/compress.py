"""A dense perturbation as low-rank factors of the same length, by block power steps from a first guess."""

from __future__ import annotations

from torch import Tensor

from art_lowrank.attack.balls import length
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.orthonormal import leading, orthonormal

EXTRA, ROUNDS = 8, 3  # more columns and steps for an image that has no factors to start from


def compressed(delta: Tensor, guess: Tensor, rank: int, rounds: int = 1) -> Factors:
    """Factors of delta (n, c, h, w) from rows (n or 1, c, at least r, w) near its leading ones.

    What is cut off is made up for in length, so that a perturbation does not shrink from epoch to epoch.
    """
    n, c, h, w = delta.shape
    matrix, right = delta.flatten(0, 1), guess.expand(n, -1, -1, -1).flatten(0, 1)
    for _ in range(rounds):
        left = orthonormal(matrix @ right.mT)
        right = left.mT @ matrix
    if right.shape[-2] > rank:
        left, right = leading(left, right, rank)
    found = Factors(left.view(n, c, h, rank), right.view(n, c, rank, w))
    return found.scaled(length(delta) / length(found.right).clamp_min(1e-30))
