"""For a linear loss the best rank-r perturbation is known: eps times the gradient's truncated SVD (Eckart-Young)."""

from __future__ import annotations

import pytest
import torch

from art_lowrank import lowrank_pgd
from art_lowrank.attack.factors import truncated


class Linear(torch.nn.Module):
    """Two classes whose margin against class 0 is <weights, x>: its gradient is `weights` everywhere."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, x):
        score = (x * self.weights).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


def reached(weights, rank, steps, method="power", eps=0.5, **options):
    """Share of the optimum <G, eps G_r / |G_r|> the attack reaches, an image each."""
    x = torch.zeros(1, *weights.shape).double()
    result = lowrank_pgd(
        Linear(weights), x, torch.zeros(1).long(), eps=eps, rank=rank, steps=steps, method=method, clip=None, **options
    )
    best = truncated(weights.unsqueeze(0), rank).norm()
    return ((result.x - x) * weights).sum() / (eps * best)


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 33)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_ten_steps_reach_the_optimum(shape, rank):
    shares = torch.stack([reached(gaussian(*shape, seed=seed), rank, 10) for seed in range(5)])
    assert (shares <= 1 + 1e-6).all()
    assert shares.min() >= 0.999


@pytest.mark.parametrize("rank", [1, 22])
@pytest.mark.parametrize("size", [64, 128, 224])
def test_large_images_too(size, rank):
    assert reached(gaussian(3, size, size, seed=1), rank, 10) >= 0.999


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_optimum_itself_as_steps_grow(rank):
    shares = [reached(gaussian(3, 32, 32, seed=3), rank, steps).item() for steps in (5, 20, 200)]
    assert shares[0] <= shares[1] + 1e-9 <= shares[2] + 2e-9
    assert shares[2] >= 1 - 1e-6


def test_the_published_method_is_farther_away():
    shares = torch.stack([reached(gaussian(3, 32, 32, seed=seed), 3, 10, method="paper") for seed in range(5)])
    assert ((shares > 0.85) & (shares < 0.98)).all()


def test_full_rank_is_the_gradient_direction():
    assert reached(gaussian(3, 16, 16), 16, 3) == pytest.approx(1, abs=1e-6)


def test_targeted_descends_to_the_other_class():
    weights = gaussian(3, 16, 16)
    x = torch.zeros(1, 3, 16, 16).double()
    result = lowrank_pgd(Linear(weights), x, torch.ones(1).long(), eps=0.5, rank=2, clip=None, targeted=True)
    assert (result.x * weights).sum() > 0
    assert result.success.all()


def test_low_rank_gradient_of_lower_rank_than_asked():
    """A gradient of rank 1 leaves the other columns nothing to do, and they do no harm."""
    weights = (gaussian(2, 9, 1) @ gaussian(2, 1, 7, seed=5)).contiguous()
    assert reached(weights, 3, 10) == pytest.approx(1, abs=1e-6)
