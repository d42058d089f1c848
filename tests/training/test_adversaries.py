"""The inner attacks of training: in ball and box, as strong as their closed forms, and no other randomness."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_lowrank import lowrank_pgd
from art_lowrank.training import Pgd, SingleStep


@pytest.fixture
def linear():
    """A linear net on (1, 6, 5) images and three classes, and images far from the box's bounds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(30, 3))
        x = torch.rand(9, 1, 6, 5) * 0.2 + 0.4
    return net, x, torch.arange(9) % 3


class Counting:
    """Logits that count their calls."""

    def __init__(self, net):
        self.net, self.calls = net, 0

    def __call__(self, x):
        self.calls += 1
        return self.net(x)


def lengths(delta, norm):
    return delta.flatten(1).abs().amax(1) if norm == "inf" else delta.flatten(1).norm(dim=1)


def start_of(x, eps, norm, number):
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(number)) * 2 - 1
    return eps * (noise if norm == "inf" else noise / noise.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("norm", [2, "2", "l2", "inf", float("inf"), "linf"])
def test_single_step_stays_in_ball_and_box_with_one_gradient(linear, norm):
    net, x, y = linear
    wide = torch.linspace(0, 1, x.numel()).reshape(x.shape)
    for images in (x, wide):
        logits = Counting(net)
        found = SingleStep(0.3, norm)(logits, images, y, 5)
        flat = "inf" if norm not in (2, "2", "l2") else "2"
        assert logits.calls == 1
        assert lengths(found - images, flat).max() <= 0.3 * (1 + 1e-6)
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert not found.requires_grad
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_single_step_is_its_formula(linear, norm):
    net, x, y = linear
    eps, length, number = 0.05, 1.25, 7
    start = start_of(x, eps, norm, number)
    images = (x + start).requires_grad_()
    gradient = torch.autograd.grad(nn.functional.cross_entropy(net(images), y), images)[0]
    step = gradient.sign() if norm == "inf" else gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    delta = start + length * eps * step
    if norm == "inf":
        delta = delta.clamp(-eps, eps)
    else:
        delta = delta * (eps / delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)).clamp(max=1)
    assert torch.allclose(SingleStep(eps, norm, length)(net, x, y, number), x + delta, atol=1e-6)


def test_a_long_step_is_the_best_one_on_a_linear_net(linear):
    """From 2 radii on the l_inf step ends in the corner that the gradient's signs name, wherever it began."""
    _, x, _ = linear
    two = nn.Sequential(nn.Flatten(), nn.Linear(30, 2))
    y = torch.zeros(9, dtype=torch.int64)
    apart = (two[1].weight[1] - two[1].weight[0]).detach().reshape(1, 6, 5)
    found = SingleStep(0.1, "inf", 2.0)(two, x, y, 3)
    assert torch.allclose(found, x + 0.1 * apart.sign(), atol=1e-6)


@pytest.mark.parametrize("attack", [SingleStep(0.2), SingleStep(0.2, 2), Pgd(0.2, steps=3), Pgd(0.2, "inf", 3)])
def test_depends_on_number_alone(linear, attack):
    net, x, y = linear
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = attack(net, x, y, 11)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, attack(net, x, y, 11))
    assert lengths(first - x, "inf" if attack.norm == "inf" else "2").max() <= 0.2 * (1 + 1e-5)


def test_other_numbers_begin_elsewhere(linear):
    net, x, y = linear
    for norm in (2, "inf"):
        one, two = (SingleStep(0.2, norm)(net, x, y, number) for number in (1, 2))
        assert (one - two).abs().max() > 1e-3


@pytest.mark.parametrize("rank", ["full", 2])
def test_pgd_is_lowrank_pgd(linear, rank):
    net, x, y = linear
    found = Pgd(0.3, 2, 4, rank)(net, x, y, 9)
    assert torch.equal(found, lowrank_pgd(net, x, y, eps=0.3, norm=2, steps=4, rank=rank, seed=9).x)


def test_without_a_box_nothing_is_clamped(linear):
    net, x, y = linear
    found = SingleStep(0.3, "inf", clip=None)(net, x + 5, y, 0)
    assert found.min() > 1
    assert SingleStep(0.3, "inf", clip=(0.45, 0.5))(net, x.clamp(0.45, 0.5), y, 0).max() <= 0.5


def test_a_zero_gradient_is_no_nan():
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    for norm in (2, "inf"):
        found = SingleStep(0.1, norm)(lambda images: images.flatten(1)[:, :3] * 0, x, y, 0)
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("norm", ["nuc", 1, "l1", None])
def test_a_single_step_in_another_norm_is_refused(linear, norm):
    net, x, y = linear
    with pytest.raises(ValueError, match=r"norm is .*single step takes 2 or 'inf'"):
        SingleStep(0.1, norm)(net, x, y, 0)
