"""Both ways to an orthonormal basis span the same space."""

from __future__ import annotations

import pytest
import torch

from art_lowrank.attack.orthonormal import by_cholesky, leading, orthonormal


def columns(condition, shape=(5, 2, 20, 4)):
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), shape[-1], dtype=torch.float64)
    return (left * values @ right).float()


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_same_span(condition, scale):
    given = columns(condition) * scale
    basis, other = orthonormal(given), by_cholesky(given)
    identity = torch.eye(4).expand(5, 2, 4, 4)
    torch.testing.assert_close(basis.mT @ basis, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.mT @ other, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(other @ other.mT, basis @ basis.mT, atol=2e-7 * condition + 1e-5, rtol=0)


def test_dependent_and_empty_columns_stay_finite():
    given = columns(10.0)
    given[0, 0] = 0
    given[1, 0, :, 2] = given[1, 0, :, 1]
    given[2, 1, :, 3] = 0
    basis = by_cholesky(given)
    assert torch.isfinite(basis).all()
    assert (basis[0, 0] == 0).all()
    reconstructed = basis @ (basis.mT @ given)
    torch.testing.assert_close(reconstructed, given, atol=1e-4, rtol=0)


def test_leading_directions_are_the_singular_ones():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(3, 12, 9, generator=generator)
    basis = torch.linalg.qr(matrix).Q
    left, right = leading(basis, basis.mT @ matrix, 2)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    best = u[..., :2] * s[..., None, :2] @ v[..., :2, :]
    torch.testing.assert_close(left @ right, best, atol=1e-4, rtol=0)
