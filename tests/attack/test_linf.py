"""l_inf: closed forms on linear models, rank and radius by construction, and what holds for every attack."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from art_lowrank import Factors, lowrank_pgd
from art_lowrank.attack.norms import simplex
from art_lowrank.attack.pattern import edges, rows_in_l1

METHODS = ["pattern", "alternating", "clipped-latent"]
EVERY = [{"method": method, "rank": 2} for method in METHODS] + [
    {"rank": 1},
    {"rank": "full"},
    {"method": "pattern", "rank": 3, "restarts": 2, "steps": 3},
    {"method": "alternating", "rank": 3, "restarts": 2, "steps": 3},
    {"method": "clipped-latent", "rank": 3, "restarts": 2, "steps": 3},
    {"method": "pattern", "rank": 2, "step_size": 0.02, "decay": 0.9},
    {"method": "alternating", "rank": 2, "step_size": 0.02, "decay": 0.9},
]
ids = [str(options) for options in EVERY]
inf = math.inf


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights):
    """Two classes whose margin against class 0 is <weights, x>."""

    def net(x):
        score = (x * weights.to(x)).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)

    return net


def free(weights, eps, rank, method="power", **options):
    """The attack on a linear model without a box; and its share of eps |weights|_1, what any rank could reach."""
    x = torch.zeros(1, *weights.shape, dtype=torch.float64)
    y = torch.zeros(1).long()
    result = lowrank_pgd(
        linear(weights), x, y, eps=eps, rank=rank, norm=inf, method=method, clip=None, **{"steps": 20, **options}
    )
    return result, float((result.x * weights).sum() / (torch.as_tensor(eps) * weights.abs()).sum())


def rank_of(delta, tol=1e-10):
    values = torch.linalg.svdvals(delta.double())
    return int((values > tol * values[..., :1]).sum(-1).amax())


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_full_rank_is_the_sign_of_the_gradient(steps):
    weights = normal(3, 12, 10)
    result, share = free(weights, 0.3, "full", steps=steps)
    assert share == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(result.x[0], 0.3 * weights.sign(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["power", *METHODS])
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_signs_of_rank_one_are_reached_at_every_rank(method, rank):
    result, share = free((normal(3, 12, 1) @ normal(3, 1, 10, seed=1)).contiguous(), 0.3, rank, method)
    assert share == pytest.approx(1, abs=1e-6)
    assert method == "clipped-latent" or rank > 1 or rank_of(result.x) == 1


@pytest.mark.parametrize("method", ["pattern", "alternating"])
def test_rank_and_radius_without_a_box(method):
    shares = []
    for rank in range(1, 11):
        result, share = free(normal(3, 12, 10), 0.3, rank, method)
        assert result.x.abs().max() <= 0.3 * (1 + 1e-6)
        assert rank_of(result.x) <= rank
        torch.testing.assert_close(result.factors.dense(), result.x, atol=1e-12, rtol=0)
        shares.append(share)
    assert shares[0] >= 0.3
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(shares))
    assert shares[-1] >= 0.9


def test_what_power_means():
    def name(rank, shape=(1, 1, 12, 10), **options):
        x = torch.full(shape, 0.5)
        return lowrank_pgd(
            linear(normal(*shape[1:])), x, torch.zeros(1).long(), eps=0.1, rank=rank, norm=inf, **options
        ).attack

    assert [name(rank) for rank in (1, 2)] == ["lowrank-pgd[pattern]"] * 2
    assert [name(rank) for rank in (3, 9)] == ["lowrank-pgd[alternating]"] * 2
    assert name("full") == name(10) == "lowrank-pgd[dense]"
    assert name(4, (1, 1, 20, 30)) == "lowrank-pgd[pattern]"
    assert [name(5, method=method) for method in METHODS] == [f"lowrank-pgd[{method}]" for method in METHODS]


@pytest.mark.parametrize("method", ["pattern", "alternating"])
def test_radii_that_are_an_outer_product_are_used_in_full(method):
    eps = (0.1 + normal(12, 1, seed=2).abs()) * (0.1 + normal(1, 10, seed=3).abs())
    result, share = free(normal(1, 12, 1) @ normal(1, 1, 10, seed=1), eps, 1, method)
    assert share == pytest.approx(1, abs=1e-6)
    assert (result.x.abs() <= eps * (1 + 1e-6)).all()
    assert rank_of(result.x) == 1


@pytest.mark.parametrize("method", ["power", *METHODS])
@pytest.mark.parametrize("rank", [1, 4, "full"])
def test_any_radii_are_respected_and_zeros_leave_pixels_alone(method, rank):
    general = normal(3, 12, 10, seed=4).abs()
    hole, rows, columns = (torch.full((12, 10), 0.3, dtype=torch.float64) for _ in range(3))
    hole[2:6, 3:7], rows[2:6], columns[:, 3:7] = 0, 0, 0
    for eps in (general, hole, rows, columns):
        result, share = free(normal(3, 12, 10), eps, rank, method, steps=5)
        assert (result.x.abs() <= eps * (1 + 1e-6)).all()
        assert share > 0.01
        assert method == "clipped-latent" or rank == "full" or rank_of(result.x) <= rank


def test_edges_by_hand():
    rows, columns = edges(torch.tensor([[4.0, 2.0], [1.0, 1.0], [0.0, 0.0]])[None, None])
    assert rows.flatten().tolist() == [4.0, 1.0, 0.0]
    assert columns.flatten().tolist() == [1.0, 0.5]
    assert not torch.cat([part.flatten() for part in edges(torch.zeros(1, 1, 2, 3))]).any()


def test_rows_in_the_l1_ball():
    mixtures = normal(2, 3, 5, 4)
    found = rows_in_l1(mixtures)
    assert (found.abs().sum(-1) <= 1 + 1e-12).all()
    assert (found * mixtures >= 0).all()
    torch.testing.assert_close(found[1, 2, 3].abs(), simplex(mixtures[1, 2, 3:4].abs(), torch.ones(1).double())[0])


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_what_holds_for_every_attack(colour_net, colour_images, options):
    x, y = colour_images
    copies = x.clone(), y.clone()
    attack = {"eps": 0.05, "norm": inf, "steps": 10, **options}
    result = lowrank_pgd(colour_net, x, y, **attack)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert ((result.x.double() - x.double()).abs() <= 0.05 * (1 + 1e-6)).all()
    assert result.x.min() >= 0
    assert result.x.max() <= 1
    with torch.no_grad():
        logits = colour_net(result.x)
    assert torch.equal(result.success, logits.argmax(1) != y)
    # a batch is its rows
    order = torch.tensor([3, 0, 6])
    some = lowrank_pgd(colour_net, x[order], y[order], **attack)
    torch.testing.assert_close(some.x, result.x[order], atol=1e-5, rtol=0)
    one = lowrank_pgd(colour_net, x[4:5], y[4:5], **attack)
    torch.testing.assert_close(one.x, result.x[4:5], atol=1e-5, rtol=0)
    none = lowrank_pgd(colour_net, x[:0], y[:0], **attack)
    assert none.x.shape == (0, 3, 12, 10)
    # early stop, seeds, no steps, no radius, targets
    assert torch.equal(lowrank_pgd(colour_net, x, y, early_stop=True, **attack).success, result.success)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **attack).x, result.x)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **{**attack, "eps": 0}).x, x)
    if "restarts" not in options:
        assert torch.equal(lowrank_pgd(colour_net, x, y, **{**attack, "steps": 0}).x, x)
        other = lowrank_pgd(colour_net, x, y, seed=1, **attack)
        assert torch.equal(other.x, result.x) == (options.get("rank") == "full")
    targeted = lowrank_pgd(colour_net, x, (y + 1) % 5, targeted=True, **attack)
    with torch.no_grad():
        assert torch.equal(targeted.success, colour_net(targeted.x).argmax(1) == (y + 1) % 5)
        gain = (colour_net(targeted.x) - colour_net(x)).gather(1, ((y + 1) % 5)[:, None])
    assert (gain > 0).all()


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_masks(colour_net, colour_images, options):
    x, y = colour_images
    disc = (torch.arange(12.0)[:, None] - 5.5) ** 2 + (torch.arange(10.0) - 4.5) ** 2 < 16
    result = lowrank_pgd(colour_net, x, y, eps=0.05, norm=inf, mask=disc, **options)
    assert torch.equal(result.x[..., ~disc], x[..., ~disc])
    assert ((result.x.double() - x.double()).abs() <= 0.05 * (1 + 1e-6)).all()
    assert (result.x != x).flatten(1).any(1).all()


@pytest.mark.parametrize("options", EVERY[:5], ids=ids[:5])
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 1, 4), (2, 9, 2)])
def test_odd_shapes_and_radii_an_image(options, shape):
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    eps = torch.tensor([0.0, 0.01, 0.1, 2.0])
    rank = options["rank"] if options["rank"] == "full" else min(options["rank"], *shape[1:])
    result = lowrank_pgd(
        linear(normal(*shape)), x, torch.zeros(4).long(), eps=eps, norm=inf, **{**options, "rank": rank}
    )
    assert ((result.x.double() - x.double()).abs().amax((1, 2, 3)) <= eps.double() * (1 + 1e-6)).all()
    assert (result.x != x).flatten(1).any(1).tolist() == [False, True, True, True]


@pytest.mark.parametrize("options", EVERY[:5], ids=ids[:5])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_rank_held_where_the_box_is_far(colour_net, colour_images, options, clip):
    x, y = colour_images
    result = lowrank_pgd(colour_net, 0.5 + 0.1 * (x - 0.5), y, eps=0.3, norm=inf, clip=clip, **options)
    assert options.get("method") == "clipped-latent" or result.rank_held.all()


@pytest.mark.parametrize("method", METHODS)
def test_starting_from_factors(colour_net, colour_images, method):
    """The start is the given perturbation where it is in the ball; what one image starts from is nothing to others."""
    x, y = colour_images
    attack = {"eps": 0.05, "norm": inf, "method": method, "rank": 3}
    small = Factors(0.01 * normal(7, 3, 12, 2).sign().float(), normal(7, 3, 2, 10).tanh().float())
    if method != "clipped-latent":
        started = lowrank_pgd(colour_net, x, y, init=small, steps=0, clip=None, **attack)
        assert rank_of(started.factors.dense(), 1e-5) <= 3
        torch.testing.assert_close(started.x, x + small.dense(), atol=1e-6, rtol=0)
    mixed = Factors(small.left * (torch.arange(7) % 2).reshape(7, 1, 1, 1), small.right)
    whole = lowrank_pgd(colour_net, x, y, init=mixed, steps=3, **attack).x
    for i in (0, 1):
        alone = lowrank_pgd(
            colour_net, x[i : i + 1], y[i : i + 1], init=mixed.rows(slice(i, i + 1)), steps=3, **attack
        ).x
        torch.testing.assert_close(alone, whole[i : i + 1], atol=1e-5, rtol=0)
