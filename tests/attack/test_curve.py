"""Curves know where a linear model breaks, fall by construction, and cost what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from art_lowrank import eps_curve, lowrank_pgd, rank_curve

VALUES = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.25])  # the singular values of the gradient


def linear_problem(eps, reachable):
    """A linear model and images on which the best perturbation of `reachable[i]` just breaks image i."""
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q for _ in range(2))
    gradient = left @ torch.diag(VALUES) @ right.mT

    def model(x):
        score = (x * gradient).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)

    needed = torch.tensor([eps * r for r in reachable])
    x = -needed.reshape(-1, 1, 1, 1) * gradient / gradient.square().sum()
    return model, x, torch.zeros(len(x), dtype=torch.long)


def best(rank):
    """Length of the gradient's best part of this rank: what one unit of l2 radius gains at most."""
    return float(VALUES[:rank].square().sum().sqrt())


def test_smallest_breaking_rank_of_a_linear_model():
    just_below = [best(r) * 0.999 for r in (1, 2, 3, 4)]
    model, x, y = linear_problem(0.5, [-1.0, *just_below, best(6) * 1.001])
    curve = rank_curve(model, x, y, eps=0.5, ranks=[1, 2, 3, 4, "full"], clip=None)
    assert curve.breaking.tolist() == [0, 1, 2, 3, 4, math.inf]
    assert curve.values == (1, 2, 3, 4, 6)
    assert curve.clean_accuracy == pytest.approx(5 / 6)
    assert curve.accuracy == pytest.approx((4 / 6, 3 / 6, 2 / 6, 1 / 6, 1 / 6))
    assert curve.effective_rank == 4
    assert (model(curve.x).argmax(1) != y).tolist() == [True] * 5 + [False]
    torch.testing.assert_close(curve.x[0], x[0])


def test_smallest_breaking_radius_of_a_linear_model():
    model, x, y = linear_problem(1.0, [best(2) * share for share in (0.0999, 0.2999, 0.4999, 0.51)])
    curve = eps_curve(model, x, y, eps=[0.5, 0.1, 0.3], rank=2, clip=None)
    assert curve.along == "eps"
    assert curve.breaking.tolist() == pytest.approx([0.1, 0.3, 0.5, math.inf])
    with pytest.raises(ValueError, match="only a curve over ranks"):
        _ = curve.effective_rank


def test_default_ranks_are_powers_of_two_and_full(digits_net, test_digits):
    x, y = test_digits
    curve = rank_curve(digits_net, x, y, eps=0.6)
    assert curve.values == (1, 2, 4, 8)
    padded = nn.functional.pad(x, (0, 3, 0, 2))
    net = nn.Sequential(nn.Flatten(), nn.Linear(110, 10)).eval()
    assert rank_curve(net, padded, y, eps=0.6, steps=2).values == (1, 2, 4, 8, 10)


@pytest.mark.parametrize("norm", [2, math.inf, "nuc"])
def test_falls_and_agrees_with_separate_runs(digits_net, test_digits, norm):
    x, y = test_digits
    eps = {2: 0.6, math.inf: 0.1, "nuc": 0.8}[norm]
    curve = rank_curve(digits_net, x, y, eps=eps, norm=norm)
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
    for rank, share in zip(curve.values, curve.accuracy, strict=True):
        alone = lowrank_pgd(digits_net, x, y, eps=eps, norm=norm, rank=int(rank))
        assert share == pytest.approx(1 - float(alone.success.float().mean()), abs=0.05)
    broken = curve.breaking < math.inf
    assert torch.equal(digits_net(curve.x).argmax(1) != y, broken)
    assert curve.queries.gradients[curve.breaking == 0].eq(0).all()
    assert curve.queries.gradients[~broken].eq(20 + 10 * 3).all()


def test_a_batch_is_its_rows(digits_net, test_digits):
    x, y = test_digits
    whole = rank_curve(digits_net, x, y, eps=0.6, steps=6)
    parts = [rank_curve(digits_net, x[i : i + 7], y[i : i + 7], eps=0.6, steps=6) for i in range(0, 100, 7)]
    assert torch.equal(whole.joined(parts).breaking, whole.breaking)
    torch.testing.assert_close(whole.joined(parts).x, whole.x, atol=1e-4, rtol=0)


def test_radii_and_masks_follow_the_survivors(digits_net, test_digits):
    x, y = test_digits
    mask = torch.zeros(100, 1, 8, 8)
    mask[::2, :, :, :4] = 1
    mask[1::2, :, 2:] = 1
    eps = torch.linspace(0.1, 1.0, 100)
    curve = rank_curve(digits_net, x, y, eps=eps, mask=mask, steps=6)
    assert (((curve.x - x) != 0) & (mask == 0)).sum() == 0
    assert ((curve.x - x).double().flatten(1).norm(dim=1) <= eps.double() * (1 + 1e-6)).all()


def test_where_the_batch_matters_nobody_leaves(colour_images):
    x, y = colour_images
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(360, 5)).eval()
    sizes = []
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    curve = rank_curve(net, x, y, eps=0.5, steps=4, ranks=[1, 3])
    assert set(sizes) == {7}
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)


def test_with_exact_rank(digits_net, test_digits):
    x, y = test_digits
    curve = rank_curve(digits_net, x, y, eps=0.6, steps=6, ranks=[1, 2], exact_rank=True)
    at_one = curve.breaking == 1
    values = torch.linalg.svdvals((curve.x - x)[at_one].double())
    assert (values[..., 1] <= 2e-2 * values[..., 0]).float().mean() > 0.9


def test_named_by_all_its_attacks(digits_net, test_digits):
    curve = rank_curve(digits_net, *test_digits, eps=0.1, steps=2, norm="inf")
    assert curve.attack == "lowrank-pgd[pattern], lowrank-pgd[alternating], lowrank-pgd[dense]"


def test_targeted_and_empty(digits_net, test_digits):
    x, y = test_digits
    target = (y + 1) % 10
    curve = rank_curve(digits_net, x, target, eps=1.5, targeted=True, steps=8)
    assert torch.equal(digits_net(curve.x).argmax(1) == target, curve.breaking < math.inf)
    empty = rank_curve(digits_net, x[:0], y[:0], eps=1.0)
    assert empty.breaking.shape == (0,)
    assert "0 images" in repr(empty)
    with pytest.raises(ValueError, match="no images"):
        _ = empty.effective_rank


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x, y: rank_curve(net, x, y, eps=1, ranks=[]), r"ranks is \[\]"),
        (lambda net, x, y: rank_curve(net, x, y, eps=1, ranks=[0, 2]), "rank is 0"),
        (lambda net, x, y: rank_curve(net, x, y, eps=1, ranks=[9]), "rank 9 exceeds"),
        (lambda net, x, y: rank_curve(net, x, y, eps=1, ranks=3), "ranks is 3"),
        (lambda net, x, y: rank_curve(net, x, y, eps=-1), "eps is -1"),
        (lambda net, x, y: rank_curve(net, x, y, eps=1, loss="estimator"), "use loss='auto'"),
        (lambda net, x, y: rank_curve(net, x * 3, y, eps=1), "outside the clip range"),
        (lambda net, x, y: eps_curve(net, x, y, eps=[]), "at least one radius"),
        (lambda net, x, y: eps_curve(net, x, y, eps=0.5), "give some radii"),
        (lambda net, x, y: eps_curve(net, x, y, eps=[0.0, 1.0]), "> 0"),
    ],
)
def test_bad_input(digits_net, test_digits, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(digits_net, *test_digits)
    assert "\n" not in str(caught.value)
