"""exact_rank=True: a perturbation of rank r that is also inside the image box, so that the box changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from art_lowrank.attack.alternating import compressed
from art_lowrank.attack.factors import Factors, truncated
from art_lowrank.attack.norms import Linf
from art_lowrank.attack.start import Problem

ROUNDS = 400
PUSH = 5e-4  # of the width between a pixel's bounds: how far inside them a violating pixel is put


def exact(delta: Tensor, rank: int, problem: Problem) -> Factors:
    """Alternating projections of (n, c, h, w) on the matrices of rank r and on the bounds of every pixel.

    Pixels beyond a bound are put a little inside it, so that most images come to lie inside all bounds after finitely
    many rounds and are finished; what is left after the last round is within a fraction of a grey level of them.
    """
    left, right = truncated(delta, rank)
    low, high = bounds(problem)
    push = torch.where(torch.isfinite(high - low), PUSH * (high - low), 0.0)
    rows = torch.arange(len(delta), device=delta.device)
    for _ in range(ROUNDS):
        now = left[rows] @ right[rows]
        beyond = (now < low[rows]) | (now > high[rows])
        rows, now = (kept[beyond.flatten(1).any(1)] for kept in (rows, now))
        if not len(rows):
            break
        below, above = now < low[rows], now > high[rows]
        target = torch.where(below, (low + push)[rows], torch.where(above, (high - push)[rows], now))
        moved = compressed(target, right[rows])
        left, right = left.index_put((rows,), moved.left), right.index_put((rows,), moved.right)
    if problem.mask is not None:  # a rectangle: whole rows and columns become exact zeros, and no rank rises
        left, right = left * problem.mask.amax(-1, keepdim=True), right * problem.mask.amax(-2, keepdim=True)
    return Factors(left, right)


def bounds(problem: Problem) -> tuple[Tensor, Tensor]:
    """How far every pixel may move down and up."""
    x = problem.x
    low, high = torch.full_like(x, -torch.inf), torch.full_like(x, torch.inf)
    if problem.box is not None:
        low, high = problem.box[0] - x, problem.box[1] - x
    if isinstance(problem.ball, Linf):
        low, high = torch.maximum(low, -problem.eps), torch.minimum(high, problem.eps)
    if problem.mask is None:
        return low, high
    outside = problem.mask == 0
    return low.masked_fill(outside, 0.0), high.masked_fill(outside, 0.0)


def tail_of(delta: Tensor, rank: int) -> Tensor:
    """Singular value r + 1 over the first, the largest of the channels; 0 where there is none, (n,)."""
    values: Tensor = torch.linalg.svdvals(delta.double())
    if rank >= values.shape[-1]:
        return values.new_zeros(len(delta))
    tails: Tensor = values[..., rank] / values[..., 0].clamp_min(1e-30)
    return tails.amax(1)
