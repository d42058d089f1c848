"""method="paper" is LoRa-PGD step for step: equal to its autograd transcription, in float64, to 1e-8."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from art_lowrank import Factors, lowrank_pgd
from art_lowrank.attack.balls import per_image
from art_lowrank.attack.factors import truncated
from art_lowrank.attack.start import gaussian

TRANSCRIPTION = Path(__file__).parents[2] / "integration" / "peers" / "published.py"


@pytest.fixture(scope="module")
def published():
    """The published update by autograd, through normalisation and clamp, written from the paper's formulas."""
    spec = importlib.util.spec_from_file_location("published", TRANSCRIPTION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lora_pgd


@pytest.fixture
def double(colour_net, colour_images):
    x, y = colour_images
    return colour_net.double(), x.double(), y


def gradient_of(net, y):
    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(cross_entropy(net(x), y), x)[0]

    return gradient


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_equals_autograd(published, double, rank, steps):
    net, x, y = double
    start = gaussian((1, 3, 12, rank), 0, 0, x)
    start = (start / start.norm()).expand(7, -1, -1, -1)
    theirs = published(x, start, x.new_zeros(7, 3, rank, 10), gradient_of(net, y), 2.0, steps)
    ours = lowrank_pgd(net, x, y, eps=2.0, rank=rank, steps=steps, method="paper")
    assert ((ours.x == 0) | (ours.x == 1)).any()  # the box is at work
    torch.testing.assert_close(ours.x, theirs, atol=1e-8, rtol=0)


def test_transfer_equals_autograd(published, double):
    net, x, y = double
    generator = torch.Generator().manual_seed(3)
    left = torch.randn(7, 3, 12, 2, generator=generator, dtype=torch.float64)
    right = torch.randn(7, 3, 2, 10, generator=generator, dtype=torch.float64)
    ours = lowrank_pgd(net, x, y, eps=2.0, rank=2, steps=10, method="paper", init=Factors(left, right))
    theirs = published(x, left, right, gradient_of(net, y), 2.0, 10)
    torch.testing.assert_close(ours.x, theirs, atol=1e-8, rtol=0)


def test_warm_up_starts_from_one_full_rank_step(published, double):
    net, x, y = double
    gradient = gradient_of(net, y)(x)
    step = (x + 2.0 * gradient / per_image(gradient.flatten(1).norm(dim=1))).clamp(0, 1) - x
    start = truncated(step, 2)
    theirs = published(x, start.left, start.right, gradient_of(net, y), 2.0, 5)
    ours = lowrank_pgd(net, x, y, eps=2.0, rank=2, steps=5, method="paper", init="warm-up")
    torch.testing.assert_close(ours.x, theirs, atol=1e-8, rtol=0)
    assert (ours.queries.gradients == 6).all()


def test_saturated_images_are_attacked(double):
    """torch changed clamp's gradient at the bound from 1 to 0; through it, images of zeros and ones would not move."""
    net, x, y = double
    x = (x > 0.5).double()
    assert (lowrank_pgd(net, x, y, eps=2.0, rank=3, method="paper").x != x).flatten(1).any(1).all()
