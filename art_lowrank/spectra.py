"""Measures of a matrix, or of every matrix in a batch: the last two axes are the matrix, leading axes are kept.

Results are float64 (counts int64). A convolution kernel (out, in, k, k) is a batch of k x k matrices here; pass
`weight.flatten(1)` for the out x (in k k) matrix. A zero matrix has every rank 0, energy 1 and tail 0.

Three different numbers are called "effective rank" in the literature. For singular values 2, 1, 1 they are
`stable_rank` 6/4 = 1.5, `ratio_rank` 16/6 = 2.67 and `entropy_rank` 2**1.5 = 2.83. All lie between 1 and the rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-6  # singular values of an image below this share of its largest are none
BISECTIONS, LOUDEST = 60, 1e3  # of the control's length; pixels of noise that large are at a bound


def singular_values(m: Tensor) -> Tensor:
    """Singular values in descending order, (..., h, w) -> (..., min(h, w)), computed in float64."""
    if m.ndim < 2 or 0 in m.shape[-2:]:
        raise ValueError(f"a matrix needs two last axes that are not empty, got shape {tuple(m.shape)}")
    if not torch.isfinite(m).all():
        raise ValueError("the matrix holds NaN or infinite entries: it has no singular values")
    values: Tensor = torch.linalg.svdvals(m.to(torch.float64))
    return values


def nuclear_norm(m: Tensor) -> Tensor:
    """|m|_*, the sum of the singular values, (..., h, w) -> (...)."""
    return singular_values(m).sum(-1)


def perturbation_nuclear_norm(delta: Tensor) -> Tensor:
    """The nuclear norm of each image's perturbation summed over its channels, (n, c, h, w) -> (n,)."""
    if delta.ndim != 4:
        raise ValueError(f"a perturbation has shape (n, c, h, w), got {tuple(delta.shape)}: add the missing axes")
    return nuclear_norm(delta).sum(-1)


def stable_rank(m: Tensor) -> Tensor:
    """|m|_F^2 / |m|_2^2, the "stable" or "numerical" rank of randomised linear algebra, (..., h, w) -> (...)."""
    return _relative(m).square().sum(-1)


def ratio_rank(m: Tensor) -> Tensor:
    """(|m|_* / |m|_F)^2, the "effective rank" of work on sparsity and norms of weights, (..., h, w) -> (...)."""
    values = _relative(m)
    return _share(values.sum(-1).square(), values.square().sum(-1))


def entropy_rank(m: Tensor) -> Tensor:
    """exp(H(p)) with p = sigma / sum sigma, the "effective rank" of Roy and Vetterli, (..., h, w) -> (...)."""
    values = _relative(m)
    total = values.sum(-1, keepdim=True)
    entropy = torch.special.entr(_share(values, total)).sum(-1)
    rank: Tensor = entropy.exp() * (total.squeeze(-1) > 0)  # entropy 0 would give a zero matrix rank 1
    return rank


def numerical_rank(m: Tensor, tol: float = 1e-3) -> Tensor:
    """The number of singular values above tol * sigma_1, (..., h, w) -> (...) of int64."""
    if not 0 <= tol < 1:
        raise ValueError(f"tol is a share of the largest singular value in [0, 1), got {tol}")
    return (_relative(m) > tol).sum(-1)


def energy(m: Tensor, rank: int) -> Tensor:
    """The share of |m|_F^2 that the best copy of rank `rank` keeps, (..., h, w) -> (...)."""
    _check_rank(rank)
    squares = _relative(m).square()
    total = squares.sum(-1)
    kept = _share(squares[..., :rank].sum(-1), total)
    return kept.where(total > 0, torch.ones_like(kept))


def tail(m: Tensor, rank: int) -> Tensor:
    """sigma_{rank+1} / sigma_1, (..., h, w) -> (...): what is left beyond the first `rank`, 0 if nothing."""
    _check_rank(rank)
    values = _relative(m)
    return values[..., rank] if rank < values.shape[-1] else torch.zeros_like(values[..., 0])


class Perturbed(NamedTuple):
    """What perturbations do to images and what they are made of: a row an image; k counts from the largest value.

    Ranks are means over the channels that are changed, 0 for an unchanged image, whose energy is 1.
    """

    change: Tensor  # (n, k) |s_k(moved) - s_k(x)| / s_k(x), mean over the channels of x that have such a value, or NaN
    shift: Tensor  # (n, k) |s_k(moved) - s_k(x)| / s_1(x), mean over the channels of x that are not black, or NaN
    energy: Tensor  # (n, k) share of the perturbation's squared norm, all channels together, in its k largest values
    stable: Tensor  # (n,) the three ranks of the perturbation
    ratio: Tensor
    entropy: Tensor


def perturbed(x: Tensor, moved: Tensor) -> Perturbed:
    """Measures of the perturbations moved - x, both images (n, c, h, w) of one scale."""
    _check_pair(x, moved)
    clean, after = singular_values(x), singular_values(moved)
    delta = moved.to(torch.float64) - x.to(torch.float64)
    gap, first = (after - clean).abs(), clean[..., :1].expand_as(clean)
    change = _where(clean > ROUNDING * first, gap, clean)
    squares = singular_values(delta).square().sum(1)  # over channels: the budget is theirs together
    total = squares.sum(-1, keepdim=True)
    energy = _share(squares.cumsum(-1), total).where(total > 0, torch.ones_like(squares))
    channels = (delta != 0).flatten(2).any(2).sum(1).clamp_min(1)
    ranks = (measure(delta).sum(1) / channels for measure in (stable_rank, ratio_rank, entropy_rank))
    return Perturbed(change.nanmean(1), _where(first > 0, gap, first).nanmean(1), energy, *ranks)


def noise_like(x: Tensor, moved: Tensor, places: Iterable[int] | None = None) -> Tensor:
    """Gaussian noise inside [0, 1], as long in l2 as each image's perturbation if the box allows it: the control.

    An image's noise follows from its place alone: from its number among these images, or the one given.
    """
    _check_pair(x, moved)
    clean = x.detach().to("cpu", torch.float64)
    wanted = (moved.detach().to("cpu", torch.float64) - clean).flatten(1).norm(dim=1)
    if not torch.isfinite(wanted).all():
        raise ValueError("images with NaN or infinite pixels have no length: leave them out")
    draws = [torch.Generator().manual_seed(place) for place in (range(len(x)) if places is None else places)]
    noise = torch.stack([torch.randn(x.shape[1:], generator=draw, dtype=torch.float64) for draw in draws])
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, LOUDEST)
    for _ in range(BISECTIONS):  # what the box takes is made up for; the length grows with the factor
        middle = (low + high) / 2
        short = (_boxed(clean, noise, middle) - clean).flatten(1).norm(dim=1) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return _boxed(clean, noise, low).to(x)


def _boxed(x: Tensor, noise: Tensor, factor: Tensor) -> Tensor:
    return (x + noise * factor.view(-1, 1, 1, 1)).clamp(0, 1)


def _check_pair(x: Tensor, moved: Tensor) -> None:
    if x.ndim != 4 or x.shape != moved.shape:
        raise ValueError(
            f"two sets of images (n, c, h, w) of one shape are needed, got {tuple(x.shape)} and {tuple(moved.shape)}"
        )
    if not (x.is_floating_point() and moved.is_floating_point()):
        raise ValueError(f"images are numbers of one scale, got {x.dtype} and {moved.dtype}: divide bytes by 255")


def _where(there: Tensor, part: Tensor, whole: Tensor) -> Tensor:
    """part / whole where the whole is there, else NaN."""
    return torch.where(there, part / whole.where(there, torch.ones_like(whole)), torch.nan)


def _relative(m: Tensor) -> Tensor:
    """sigma / sigma_1, so that no later square over- or underflows; zeros for a zero matrix."""
    values = singular_values(m)
    return _share(values, values[..., :1])


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole (and so every part) is 0."""
    return part / whole.where(whole > 0, torch.ones_like(whole))


def _check_rank(rank: int) -> None:
    if rank < 1:
        raise ValueError(f"rank must be a whole number of at least 1, got {rank}")
