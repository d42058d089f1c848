"""The way back to the manifold: orthonormal factors, and singular values in a band whose ends are `max_cond` apart.

All functions take batches: u (..., m, r), s (..., r), v (..., n, r) with W = u diag(s) v^T.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 2.4e-7  # of the two ends of the band, when they become float32


class Svd(NamedTuple):
    """W = u diag(s) v^T with orthonormal columns of u and v."""

    u: Tensor
    s: Tensor
    v: Tensor


def orthonormal(q: Tensor) -> Tensor:
    """The Q of a thin QR whose R has a positive diagonal: the columns turn as little as they can."""
    basis, triangle = torch.linalg.qr(q)
    signs = triangle.diagonal(dim1=-2, dim2=-1).sign()
    turned: Tensor = basis * signs.where(signs != 0, torch.ones_like(signs)).unsqueeze(-2)
    return turned


def retracted(u: Tensor, s: Tensor, v: Tensor, max_cond: Tensor) -> Svd:
    """The factors after an optimizer's step, brought back: QR of u and v, |s| clamped around its mean.

    `max_cond` (...) is the bound on cond(W), infinite for none. The band is narrower than the bound by what rounding
    left of orthonormality, which is measured in float64, so that the float64 condition number of W is below the bound.
    """
    u, v = orthonormal(u * _signs(s)), orthonormal(v)
    return Svd(u, banded(s.abs(), max_cond.to(u.device) / distortion(u) / distortion(v)), v)


def banded(s: Tensor, ratio: Tensor) -> Tensor:
    """Positive values s (..., r) clamped to [c - e, c + e], c their mean, e = c (ratio - 1) / (ratio + 1)."""
    centre = s.double().mean(-1, keepdim=True).clamp_min(1e-12)
    ratio = (ratio.double().unsqueeze(-1) * (1 - ROUNDING)).clamp_min(1)
    low = 2 * centre / (1 + ratio)  # 0 where there is no bound
    high = torch.where(ratio.isinf(), ratio, (2 * centre) - low)
    return s.double().clamp(low, high).to(s.dtype)


def distortion(q: Tensor) -> Tensor:
    """An upper bound of cond(q), 1 for orthonormal columns, from |q^T q - I|_F in float64."""
    wide = q.double()
    eye = torch.eye(q.shape[-1], dtype=wide.dtype, device=q.device)
    error = torch.linalg.matrix_norm(wide.mT @ wide - eye).clamp_max(1 - 1e-9)
    bound: Tensor = ((1 + error) / (1 - error)).sqrt()
    return bound


def svd_of(w: Tensor, rank: int) -> Svd:
    """The best copy of rank `rank` of a matrix (m, n), computed in float64."""
    u, s, vt = torch.linalg.svd(w.detach().double(), full_matrices=False)
    return Svd(*(part.to(w.dtype) for part in (u[:, :rank], s[:rank], vt[:rank].mT)))


def condition(u: Tensor, core: Tensor, v: Tensor) -> float:
    """cond(u core v^T) in float64, factors orthonormal or not; `core` (r,) or (r, r). Infinite where rank is lost."""
    left = torch.linalg.qr(u.detach().double(), mode="r").R
    right = torch.linalg.qr(v.detach().double(), mode="r").R
    core = core.detach().double()
    values = torch.linalg.svdvals(left @ (core.diag() if core.ndim == 1 else core) @ right.mT)
    return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def _signs(s: Tensor) -> Tensor:
    """The signs of s (..., r) as a row to multiply columns with: W keeps its value when s becomes |s|."""
    return torch.where(s < 0, -1.0, 1.0).to(s.dtype).unsqueeze(-2)
