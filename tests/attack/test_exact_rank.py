"""exact_rank=True: what is left after the box has rank r, is in box and ball, and is what the factors say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from art_lowrank import lowrank_pgd
from art_lowrank.attack.exact import exact, tail_of
from art_lowrank.attack.factors import truncated
from art_lowrank.attack.norms import L2, Linf
from art_lowrank.attack.start import Problem

inf = math.inf
EVERY = [
    {"norm": 2, "eps": 0.7},
    {"norm": 2, "eps": 2.5},
    {"norm": inf, "eps": 0.07, "method": "pattern"},
    {"norm": inf, "eps": 0.07, "method": "alternating"},
    {"norm": "nuc", "eps": 0.7},
    {"norm": "nuc", "eps": 2.5, "method": "frank-wolfe"},
]
ids = [" ".join(map(str, options.values())) for options in EVERY]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights):
    def net(x):
        score = (x * weights.to(x)).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)

    return net


def norm_of(delta, norm):
    if norm == 2:
        return delta.flatten(1).norm(dim=1)
    if norm == inf:
        return delta.flatten(1).abs().amax(1)
    return torch.linalg.svdvals(delta).sum((1, 2))


def numpy_tail(delta, rank):
    tails = []
    for image in delta.double().numpy():
        values = [np.linalg.svd(channel)[1] for channel in image]
        tails.append(max(v[rank] / max(v[0], 1e-30) if rank < len(v) else 0.0 for v in values))
    return torch.tensor(tails, dtype=torch.float64)


def check(result, net, x, y, options, rank, held_tail=0.02):
    """Everything that is promised."""
    delta = result.x.double() - x.double()
    assert result.x.min() >= 0
    assert result.x.max() <= 1
    assert (norm_of(delta, options["norm"]) <= options["eps"] * (1 + 1e-6)).all()
    torch.testing.assert_close(result.tail, numpy_tail(delta, rank), atol=1e-6, rtol=1e-4)
    assert torch.equal(result.rank_held, result.tail <= 1e-3)
    assert (result.tail <= held_tail).all()
    assert result.factors.rank <= rank
    rest = torch.linalg.matrix_norm(result.factors.dense().double() - delta)  # a channel each
    first = torch.linalg.matrix_norm(delta, 2)
    assert (rest <= 10 * result.tail[:, None] * first.amax(1, keepdim=True) + 1e-5).all()
    with torch.no_grad():
        assert torch.equal(result.success, net(result.x).argmax(1) != y)


@pytest.mark.parametrize("options", EVERY, ids=ids)
@pytest.mark.parametrize("rank", [2, 9])
def test_promises_on_a_net(colour_net, colour_images, options, rank):
    x, y = colour_images
    result = lowrank_pgd(colour_net, x, y, rank=rank, exact_rank=True, **options)
    check(result, colour_net, x, y, options, rank)
    plain = lowrank_pgd(colour_net, x, y, rank=rank, **options)
    assert plain.tail is None
    if rank < 9:
        assert (numpy_tail(plain.x.double() - x.double(), rank) > 1e-2).any()  # there was something to do


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_promises_on_digits(digits_net, test_digits, options):
    x, y = test_digits.x[:50], test_digits.y[:50]
    result = lowrank_pgd(digits_net, x, y, rank=2, exact_rank=True, **options)
    check(result, digits_net, x, y, options, 2, held_tail=0.2)
    assert result.rank_held.float().mean() >= 0.5


@pytest.mark.parametrize("options", EVERY, ids=ids)
@pytest.mark.parametrize("kind", ["black", "white", "grey"])
def test_promises_on_a_linear_model(options, kind):
    x = torch.full((2, 3, 12, 10), {"black": 0.0, "white": 1.0, "grey": 0.5}[kind])
    weights, y = normal(3, 12, 10), torch.zeros(2).long()
    result = lowrank_pgd(linear(weights), x, y, rank=2, exact_rank=True, **options)
    check(result, linear(weights), x, y, options, 2)
    assert result.rank_held.all()
    assert ((result.x - x) * weights).sum() > 0
    if kind == "grey" and options["eps"] < 0.1:  # nothing to do, up to rounding
        plain = lowrank_pgd(linear(weights), x, y, rank=2, **options)
        torch.testing.assert_close(result.x, plain.x, atol=2e-4, rtol=0)


@pytest.mark.parametrize("options", EVERY, ids=ids)
@pytest.mark.parametrize("kind", ["colour", "black"])
def test_rectangles(colour_net, colour_images, options, kind):
    x, y = colour_images
    x = x if kind == "colour" else torch.zeros_like(x)
    rectangle = torch.zeros(12, 10)
    rectangle[2:8, 3:9] = 1
    comb = ((torch.arange(12) % 2)[:, None] * (torch.arange(10) % 3 > 0)).float()
    for mask in (rectangle, comb, torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1)):
        result = lowrank_pgd(colour_net, x, y, rank=2, exact_rank=True, mask=mask, **options)
        check(result, colour_net, x, y, options, 2)
        outside = (mask == 0).expand(x.shape)
        assert torch.equal(result.x[outside], x[outside])
        assert not result.factors.dense()[outside].any()
        assert (result.x != x).flatten(1).any(1).all()


def test_other_masks_are_an_error(colour_net, colour_images):
    x, y = colour_images
    mask = torch.ones(7, 1, 12, 10)
    mask[3, :, :6, :5] = 0  # an L
    with pytest.raises(ValueError, match="mask of image 3 is no rectangle"):
        lowrank_pgd(colour_net, x, y, eps=0.5, exact_rank=True, mask=mask)
    lowrank_pgd(colour_net, x, y, eps=0.5, mask=mask)


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_full_rank_changes_nothing_but_the_fields(colour_net, colour_images, options):
    x, y = colour_images
    plain = lowrank_pgd(colour_net, x, y, rank="full", **options)
    result = lowrank_pgd(colour_net, x, y, rank="full", exact_rank=True, **options)
    torch.testing.assert_close(result.x, plain.x, atol=1e-5, rtol=0)
    assert torch.equal(result.success, plain.success)
    assert result.rank_held.all()
    assert not result.tail.any()
    torch.testing.assert_close(result.factors.dense(), result.x - x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_what_holds_for_every_attack(colour_net, colour_images, options):
    x, y = colour_images
    copies = x.clone(), y.clone()
    attack = {"rank": 2, "exact_rank": True, "steps": 8, **options}
    result = lowrank_pgd(colour_net, x, y, **attack)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    for rows in (torch.tensor([3, 0, 6]), torch.tensor([4])):
        some = lowrank_pgd(colour_net, x[rows], y[rows], **attack)
        torch.testing.assert_close(some.x, result.x[rows], atol=2e-3, rtol=0)  # rounding grows over many rounds
    none = lowrank_pgd(colour_net, x[:0], y[:0], **attack)
    assert none.tail.shape == (0,)
    unmoved = lowrank_pgd(colour_net, x, y, **{**attack, "steps": 0})
    assert torch.equal(unmoved.x, x)
    assert unmoved.rank_held.all()
    for dtype in (torch.float16, torch.float64):
        other = lowrank_pgd(lambda images: colour_net(images.float()), x.to(dtype), y, **attack)
        realised = norm_of(other.x.double() - x.to(dtype).double(), options["norm"])
        assert (realised <= options["eps"] * (1 + 1e-6)).all()
    one = lowrank_pgd(linear(normal(1, 5, 7)), x[:, :1, :5, :7], y * 0, **attack)
    assert (one.tail <= 0.02).all()


@pytest.mark.parametrize("ball", [L2(), Linf()], ids=["l2", "linf"])
def test_the_projections_alone(ball):
    """What already fits is only split into factors; anything else comes into the bounds."""
    x = torch.full((3, 2, 9, 8), 0.5, dtype=torch.float64)
    eps = torch.full((3, 1, 1, 1), 0.3).double() if isinstance(ball, Linf) else torch.full((3,), 5.0).double()
    problem = Problem(x, torch.zeros(3), eps, None, None, (0.0, 1.0), ball)
    small = 0.01 * normal(3, 2, 9, 2) @ normal(3, 2, 2, 8, seed=1)
    torch.testing.assert_close(exact(small, 2, problem).dense(), small, atol=1e-7, rtol=0)
    reach = 0.3 if isinstance(ball, Linf) else 0.5
    large = truncated(normal(3, 2, 9, 8, seed=2), 3).dense()
    found = exact(large, 3, problem).dense()
    assert large.abs().amax() > 1.5
    assert found.abs().amax() <= reach + 2e-3
    assert (tail_of(found, 3) <= 1e-10).all()
    assert ((found * large).sum((1, 2, 3)) > 0.5 * found.square().sum((1, 2, 3))).all()


def test_tail_by_hand():
    delta = torch.zeros(2, 2, 3, 3)
    delta[0, 0] = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    delta[0, 1] = torch.diag(torch.tensor([1.0, 0.0, 0.9]))
    assert tail_of(delta, 1).tolist() == pytest.approx([0.9, 0.0])
    assert tail_of(delta, 2).tolist() == pytest.approx([0.25, 0.0])
    assert tail_of(delta, 3).tolist() == [0.0, 0.0]
