"""Measures of a matrix, or of every matrix in a batch: the last two axes are the matrix, leading axes are kept.

Results are float64 (counts int64). A convolution kernel (out, in, k, k) is a batch of k x k matrices here; pass
`weight.flatten(1)` for the out x (in k k) matrix. A zero matrix has every rank 0, energy 1 and tail 0.

Three different numbers are called "effective rank" in the literature. For singular values 2, 1, 1 they are
`stable_rank` 6/4 = 1.5, `ratio_rank` 16/6 = 2.67 and `entropy_rank` 2**1.5 = 2.83. All lie between 1 and the rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-6  # singular values of an image below this share of its largest are none


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
    """What perturbations do to images and what they are made of: a row an image, the mean of its channels.

    k counts singular values from the largest. An unchanged image has change 0, energy 1 and every rank 0.
    """

    change: Tensor  # (n, k) |s_k(moved) - s_k(x)| / s_k(x); NaN where x has no such singular value in any channel
    shift: Tensor  # (n, k) |s_k(moved) - s_k(x)| / s_1(x)
    energy: Tensor  # (n, k) the share of the perturbation's squared norm in its k largest singular values
    stable: Tensor  # (n,) the three ranks of the perturbation
    ratio: Tensor
    entropy: Tensor


def perturbed(x: Tensor, moved: Tensor) -> Perturbed:
    """Measures of the perturbations moved - x, images (n, c, h, w)."""
    if x.ndim != 4 or x.shape != moved.shape:
        raise ValueError(f"two sets of images (n, c, h, w) of one shape are needed, got {tuple(x.shape)} and "
                         f"{tuple(moved.shape)}")  # fmt: skip
    clean, after = singular_values(x), singular_values(moved)
    delta = moved.to(torch.float64) - x.to(torch.float64)
    gap, first = (after - clean).abs(), clean[..., :1]
    there = clean > ROUNDING * first
    change = torch.where(there, gap / clean.where(there, torch.ones_like(clean)), torch.nan)
    squares = singular_values(delta).square().sum(1)  # over channels: the budget is theirs together
    energy = _share(squares.cumsum(-1), squares.sum(-1, keepdim=True))
    return Perturbed(
        change.nanmean(1),
        _share(gap, first).mean(1),
        energy.where(squares.sum(-1, keepdim=True) > 0, torch.ones_like(energy)),
        *(measure(delta).mean(1) for measure in (stable_rank, ratio_rank, entropy_rank)),
    )


def noise_like(x: Tensor, moved: Tensor, seed: int = 0) -> Tensor:
    """Gaussian noise as long as each image's perturbation in l2, added and clamped to [0, 1]: the control."""
    draws = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(x.shape, generator=draws, dtype=torch.float64)
    lengths = (moved.double() - x.double()).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    moved = x.double() + noise * lengths.view(-1, 1, 1, 1)
    return moved.clamp(0, 1).to(x.dtype)


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
