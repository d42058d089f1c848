"""Faults a review found: each of these was wrong once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from art_lowrank import eps_curve, lowrank_pgd, rank_curve


def robust(result):
    return int((~result.success).sum())


def test_exact_rank_is_not_weakened_by_stopping_early(digits_net, test_digits):
    """An image that leaves at margin > 0 could be mended by making its rank exact, and would count as robust."""
    x, y = test_digits
    settings = {"eps": 1.0, "rank": 2, "steps": 10, "exact_rank": True}
    plain = lowrank_pgd(digits_net, x, y, **settings)
    assert robust(lowrank_pgd(digits_net, x, y, early_stop=True, **settings)) == robust(plain)
    assert robust(lowrank_pgd(digits_net, x, y, thorough=True, **settings)) <= robust(plain) + 2
    curve = rank_curve(digits_net, x, y, eps=1.0, ranks=[2], exact_rank=True, steps=10)
    assert round(100 * curve.accuracy[0]) == robust(plain)


class NoGradient(nn.Module):
    """A linear net whose gradient is NaN, while its logits are fine."""

    def forward(self, x):
        z = x.flatten(1)[:, :3]
        return z + (z - z.detach()).square().sum(1, keepdim=True).sqrt()


def test_no_gap_where_the_gradient_was_not_finite():
    x = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    y = x.flatten(1)[:, :3].argmax(1)
    with pytest.warns(UserWarning, match="not finite"):
        found = lowrank_pgd(NoGradient(), x, y, eps=0.01, norm="nuc", method="frank-wolfe", steps=3)
    assert (found.gap == torch.inf).all()
    assert found.dead.all()


@pytest.mark.parametrize("settings", [{"early_stop": True}, {"thorough": True}, {"restarts": 3, "early_stop": True}])
def test_bounds_of_every_image_follow_it(digits_net, test_digits, settings):
    x, y = test_digits
    low, high = (x - 0.1).clamp_min(0), (x + 0.1).clamp_max(1)
    found = lowrank_pgd(digits_net, x, y, eps=0.6, rank=2, steps=6, clip=(low, high), **settings)
    assert ((found.x >= low) & (found.x <= high)).all()
    assert 0 < robust(found) < 100
    curve = rank_curve(digits_net, x, y, eps=0.6, steps=6, clip=(low, high))
    assert ((curve.x >= low) & (curve.x <= high)).all()


def test_a_clipped_latent_has_neither_rank_nor_factors(digits_net, test_digits):
    x, y = test_digits.x * 0.5 + 0.25, test_digits.y
    found = lowrank_pgd(digits_net, x, y, eps=0.1, norm="inf", rank=2, steps=4, method="clipped-latent")
    assert not found.rank_held.any()


def test_curves_take_labels_and_images_as_the_attack_does(digits_net, test_digits):
    x, y = test_digits.x.clone().requires_grad_(), test_digits.y.to(torch.uint8)
    curve = rank_curve(digits_net, x, y, eps=0.6, steps=4)
    assert not curve.x.requires_grad
    assert torch.equal(curve.breaking, rank_curve(digits_net, *test_digits, eps=0.6, steps=4).breaking)


def test_a_fresh_seed_is_one_and_is_told(digits_net, test_digits):
    curve = rank_curve(digits_net, *test_digits, eps=0.6, steps=2, seed=None)
    again = rank_curve(digits_net, *test_digits, eps=0.6, steps=2, seed=curve.seed)
    assert torch.equal(curve.x, again.x)


@pytest.mark.parametrize("rank", [2, 3])
def test_radii_with_zeros_everywhere_still_attack(digits_net, test_digits, rank):
    x, y = test_digits
    eps = torch.full((1, 8, 8), 0.15)
    eps[0, range(8), range(8)] = 0
    found = lowrank_pgd(digits_net, x, y, eps=eps, norm="inf", rank=rank)
    assert ((found.x - x).abs() <= eps * (1 + 1e-6)).all()
    assert found.success.float().mean() > (digits_net(x).argmax(1) != y).float().mean() + 0.1


@pytest.mark.parametrize("rank", [1, 3, "full"])
def test_a_step_of_l_inf_is_no_longer_than_asked(digits_net, test_digits, rank):
    x, y = test_digits
    found = lowrank_pgd(digits_net, x, y, eps=0.1, norm="inf", rank=rank, steps=1, step_size=0.01)
    assert (found.x - x).abs().max() <= 0.025


def test_what_cannot_start_warm_makes_no_curve(digits_net, test_digits):
    with pytest.raises(ValueError, match="norm='group-nuc'"):
        eps_curve(digits_net, *test_digits, eps=[1.0], norm="group-nuc", rank="full")
    assert math.isnan(eps_curve(digits_net, test_digits.x[:0], test_digits.y[:0], eps=[0.1]).clean_accuracy)


def test_half_precision_is_judged_in_float32_inside_autocast_too(digits_net, test_digits):
    x, y = test_digits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lowrank_pgd(digits_net, x, y, eps=0.6, rank=2, steps=4, precision="bf16")
    assert torch.equal(found.success, digits_net(found.x).argmax(1) != y)
