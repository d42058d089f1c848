"""Orthonormal bases of many thin matrices at once, and the leading directions in them."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 1e-13  # of the trace, so that dependent columns leave the Cholesky factor finite


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns with the same span, (..., h, r).

    On the CPU by Householder reflections, which dependent columns do no harm. CUDA's batched QR launches kernels matrix
    by matrix, so there by two rounds of Cholesky, a handful of launches whatever the batch.
    """
    if columns.is_cuda:
        return by_cholesky(columns)
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def by_cholesky(columns: Tensor) -> Tensor:
    """The same span by CholeskyQR2 with Gram matrices in float64; columns that depend on others come out short."""
    length = torch.linalg.vector_norm(columns, dim=-2, keepdim=True)
    wide = (columns / length.clamp_min(1e-30)).double()
    identity = torch.eye(columns.shape[-1], dtype=wide.dtype, device=wide.device)
    for _ in range(2):
        gram = wide.mT @ wide
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        factor = torch.linalg.cholesky_ex(gram + (SHIFT * trace + 1e-30) * identity).L
        wide = torch.linalg.solve_triangular(factor.mT, wide, upper=True, left=False)
    basis: Tensor = wide.to(columns.dtype)
    return basis


def leading(basis: Tensor, found: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The `rank` leading singular directions of basis @ found (orthonormal basis), by found's Gram matrix."""
    unit = found / found.abs().amax((-2, -1), keepdim=True).clamp_min(1e-30)
    directions = torch.linalg.eigh(unit @ unit.mT).eigenvectors[..., -rank:]
    return basis @ directions, directions.mT @ found
