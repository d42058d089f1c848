"""The way back to the manifold: orthonormal factors, and singular values in a band whose ends are `max_cond` apart.

All functions take batches: u (..., m, r), s (..., r), v (..., n, r) with W = u diag(s) v^T.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 2.4e-7  # of the two ends of the band, when they become float32
TINY = 1e-12  # what counts as a singular value of 0: one that can still be multiplied and divided


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
    """The factors after an optimizer's step, brought back: QR of u and v, |s| clamped into the nearest band.

    `max_cond` (...) is the bound on cond(W), infinite for none. The band is narrower than the bound by what rounding
    left of orthonormality, which is measured in float64, so that the float64 condition number of W is below the bound.
    """
    u, v = orthonormal(u * _signs(s)), orthonormal(v)
    ratio = max_cond.to(u.device) / distortion(u) / distortion(v)
    return Svd(u, banded(s.abs(), ratio).to(s.dtype), v)


def banded(s: Tensor, ratio: Tensor) -> Tensor:
    """The nearest values to s (..., r), in the sum of squares, of which none is more than `ratio` (...) times another.

    They are s clamped to [a, ratio a], and a is the root of the distance's derivative, which rises in straight pieces
    between the points where a clamp begins.
    """
    values, t = s.double().clamp_min(TINY), (ratio.double().unsqueeze(-1) * (1 - ROUNDING)).clamp_min(1)
    held = s.amin(-1, keepdim=True) > 0
    within = t.isinf() | held & (values.amax(-1, keepdim=True) <= t * values.amin(-1, keepdim=True))
    if bool(within.all()):  # the usual case, for which all that follows would be a good part of the cost
        return s.double()
    rising = values.sort(dim=-1).values
    corners = torch.cat([rising, rising / t], -1).sort(dim=-1).values
    slope = _slope(rising, corners, t)
    right = (slope < 0).sum(-1, keepdim=True).clamp(1, corners.shape[-1] - 1)
    ends = [(corners.gather(-1, at), slope.gather(-1, at)) for at in (right - 1, right)]
    (start, below), (end, above) = ends
    low = start - below * (end - start) / (above - below).clamp_min(TINY)
    return torch.where(within, s.double(), values.clamp(low, low * t))


def _slope(rising: Tensor, low: Tensor, t: Tensor) -> Tensor:
    """Half the derivative of the distance to s clamped to [low, t low]: sum of (low - s)+ less t (s - t low)+."""
    sums = torch.nn.functional.pad(rising.cumsum(-1), (1, 0))
    below = torch.searchsorted(rising, low.contiguous())
    upto = torch.searchsorted(rising, (t * low).contiguous(), right=True)
    lifted = below * low - sums.gather(-1, below)
    cut = sums[..., -1:] - sums.gather(-1, upto) - (rising.shape[-1] - upto) * t * low
    return lifted - t * cut


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
    product = left @ (core.diag() if core.ndim == 1 else core) @ right.mT
    if not bool(torch.isfinite(product).all()):
        return math.nan
    values = torch.linalg.svdvals(product)
    return float(values[0] / values[-1]) if values[-1] > 0 else math.inf


def _signs(s: Tensor) -> Tensor:
    """The signs of s (..., r) as a row to multiply columns with: W keeps its value when s becomes |s|."""
    return torch.where(s < 0, -1.0, 1.0).to(s.dtype).unsqueeze(-2)
