"""exact_rank=True: a perturbation of rank r that is also inside the image box, so that the box changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from art_lowrank.attack.alternating import compressed
from art_lowrank.attack.balls import per_image
from art_lowrank.attack.factors import Factors, truncated
from art_lowrank.attack.norms import Linf
from art_lowrank.attack.start import Problem, gaussian

ROUNDS = 400
WEAK = 3e-3  # of the strongest row of `right`, whose length is the root of a singular value: as good as absent
PUSH = 5e-4  # of the width between a pixel's bounds: how far inside them a violating pixel is put


def exact(delta: Tensor, rank: int, problem: Problem) -> Factors:
    """Alternating projections of (n, c, h, w) on the matrices of rank r and on the bounds of every pixel.

    Pixels beyond a bound are put a little inside it, so that an image can come to lie inside all bounds after finitely
    many rounds and is finished: most photographs do; digits, whose pixels lie on the bounds, often do not and keep a
    small singular value beyond r after the last round.
    """
    left, right = _start(delta, rank, problem)
    low, high = bounds(problem)
    push = torch.where(torch.isfinite(high - low), PUSH * (high - low), 0.0)
    now, least, most, mask = Factors(left, right), low + push, high - push, problem.mask
    rows = torch.arange(len(delta), device=delta.device)  # of the images that still violate; what follows is theirs
    for _ in range(ROUNDS):
        dense = now.dense()
        beyond = ((dense < low) | (dense > high)).flatten(1).any(1)
        if not bool(beyond.all()):
            done = rows[~beyond]
            left, right = left.index_put((done,), now.left[~beyond]), right.index_put((done,), now.right[~beyond])
            rows, dense, now = rows[beyond], dense[beyond], now.rows(beyond)
            low, high, least, most = (bound[beyond] for bound in (low, high, least, most))
            mask = None if mask is None else mask[beyond]
        if not len(rows):
            break
        target = torch.where(dense < low, least, torch.where(dense > high, most, dense))
        now = _inside_mask(compressed(target, now.right), mask)
    left, right = left.index_put((rows,), now.left), right.index_put((rows,), now.right)
    if isinstance(problem.ball, Linf):  # its bounds are the pixels'
        return Factors(left, right)
    ratio = problem.ball.excess(left @ right, problem.eps).nan_to_num(0.0).clamp_min(1.0) * (1 + 1e-6)
    return Factors(left, right / per_image(torch.where(ratio > 1 + 1e-6, ratio, 1.0)).to(right))


def _start(delta: Tensor, rank: int, problem: Problem) -> Factors:
    """The best factors of rank r; where delta has less rank, empty columns over a sketch, not over rounding noise."""
    left, right = truncated(delta, rank)
    strength = torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    weak = strength <= WEAK * strength.amax(-2, keepdim=True)
    sketch = gaussian((1, *right.shape[1:]), 0, -3, right)
    return _inside_mask(Factors(torch.where(weak.mT, 0.0, left), torch.where(weak, sketch, right)), problem.mask)


def _inside_mask(factors: Factors, mask: Tensor | None) -> Factors:
    """A rectangle's whole rows and columns become exact zeros, and no rank rises."""
    if mask is None:
        return factors
    return Factors(factors.left * mask.amax(-1, keepdim=True), factors.right * mask.amax(-2, keepdim=True))


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
