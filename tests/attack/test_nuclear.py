"""Nuclear and group-nuclear balls: the best perturbation is one singular pair of the gradient, and is found."""

from __future__ import annotations

import pytest
import torch

from art_lowrank import Factors, lowrank_pgd
from art_lowrank.attack.frank_wolfe import atom
from art_lowrank.attack.norms import GroupNuclear, Nuclear

EVERY = [
    {"norm": "nuc", "rank": 1},
    {"norm": "nuc", "rank": 2},
    {"norm": "nuc", "rank": "full"},
    {"norm": "nuc", "rank": 3, "restarts": 2, "steps": 4},
    {"norm": "nuc", "rank": 2, "step_size": 0.3, "decay": 0.9},
    {"norm": "nuc", "method": "frank-wolfe", "rank": 1},
    {"norm": "nuc", "method": "frank-wolfe", "rank": 2, "restarts": 2, "steps": 4},
    {"norm": "nuc", "method": "frank-wolfe", "rank": "full"},
    {"norm": "group-nuc", "rank": "full", "tile": 4},
    {"norm": "group-nuc", "rank": "full"},
]
ids = [" ".join(map(str, options.values())) for options in EVERY]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights):
    """Two classes whose margin against class 0 is <weights, x>."""

    def net(x):
        score = (x * weights.to(x)).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)

    return net


def free(weights, eps=0.5, **options):
    """The attack on a linear model from black images without a box, and its objective in units of eps."""
    x = torch.zeros(1, *weights.shape, dtype=torch.float64)
    result = lowrank_pgd(linear(weights), x, torch.zeros(1).long(), eps=eps, clip=None, **options)
    return result, float((result.x * weights).sum() / eps)


def norm_of(delta, options):
    ball = GroupNuclear(options.get("tile", 1)) if options["norm"] == "group-nuc" else Nuclear()
    return ball.excess(delta.double(), torch.ones(len(delta)))


def decaying(*shape, seed=0):
    """Weights with singular values 1, 0.6, 0.36, ... in every channel, the second channel stronger than the others."""
    left, _, right = torch.linalg.svd(normal(*shape, seed=seed), full_matrices=False)
    strength = torch.ones(shape[0], 1, 1, dtype=torch.float64)
    strength[1 % shape[0]] = 1.3
    return strength * left @ (0.6 ** torch.arange(min(shape[1:]), dtype=torch.float64)[:, None] * right)


@pytest.mark.parametrize("weights_of", [decaying, normal])
@pytest.mark.parametrize("shape", [(3, 12, 10), (1, 5, 7), (3, 20, 20)])
@pytest.mark.parametrize(("method", "rank"), [("power", 1), ("power", 3), ("power", "full"), ("frank-wolfe", 2)])
def test_the_leading_singular_pair_of_the_strongest_channel(weights_of, shape, method, rank):
    slow = (
        weights_of is normal and method == "power"
    )  # channels nearly as strong as the best one: steps have to be many
    for seed in range(1 if slow else 3):
        weights = weights_of(*shape, seed=seed)
        left, values, right = torch.linalg.svd(weights)
        best = int(values[:, 0].argmax())
        result, objective = free(weights, norm="nuc", method=method, rank=rank, steps=200 if slow else 20)
        assert objective <= values.max() * (1 + 1e-6)
        assert objective >= values.max() * 0.999
        if weights_of is decaying:
            expected = torch.zeros_like(weights)
            expected[best] = 0.5 * left[best, :, :1] @ right[best, :1]
            torch.testing.assert_close(result.x[0], expected, atol=0.01, rtol=0)


def test_names():
    def name(**options):
        return free(decaying(1, 6, 6), steps=1, **options)[0].attack

    assert name(norm="nuc", rank=1) == "lowrank-pgd[nuclear]"
    assert name(norm="nuc", rank="full") == "lowrank-pgd[nuclear]"
    assert name(norm="nuc", rank=1, method="frank-wolfe") == "lowrank-pgd[frank-wolfe]"
    assert name(norm="group-nuc", rank="full") == "lowrank-pgd[frank-wolfe]"


@pytest.mark.parametrize("options", [*EVERY[5:9]], ids=ids[5:9])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_gap_bounds_how_far_the_optimum_is(options, steps):
    options = {key: value for key, value in options.items() if key != "restarts"}
    for seed in range(4):
        weights = normal(3, 12, 8, seed=seed)
        matrices = GroupNuclear(4).split(weights[None]) if "tile" in options else weights
        best = 0.5 * float(torch.linalg.svdvals(matrices).max())
        result, objective = free(weights, **{**options, "steps": steps})
        assert result.gap is not None
        assert float(result.gap) >= best - 0.5 * objective - 1e-4 * best
        assert float(result.gap) >= (1 - 1e-4) * best if steps == 1 else float(result.gap) <= 1e-4 * best


def test_no_gap_where_none_is_known():
    assert free(decaying(1, 6, 6), norm="nuc", rank=1)[0].gap is None
    assert torch.isinf(free(decaying(1, 6, 6), norm="nuc", rank=1, method="frank-wolfe", steps=0)[0].gap).all()


def test_the_tile_of_the_largest_singular_value_not_of_the_largest_norm():
    weights = torch.zeros(3, 12, 8, dtype=torch.float64)
    weights[:, :4, :4] = torch.eye(4)  # every singular value sqrt(3): the largest nuclear norm, and length sqrt(12)
    weights[1, 4:8, 4:] = 0.5  # one singular value of 2: of length 2
    result, objective = free(weights, norm="group-nuc", rank="full", tile=4)
    assert objective == pytest.approx(2, rel=1e-5)
    expected = torch.zeros_like(weights)
    expected[1, 4:8, 4:] = 0.5 / 4
    torch.testing.assert_close(result.x[0], expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.* were not broken")
@pytest.mark.parametrize("eps", [1.0, 3.0])
def test_black_images_do_not_stop_it_after_the_first_atom(eps):
    """Tiles of one pixel make an l1 ball; in the box the best are the `eps` brightest weights, a pixel each."""
    weights = normal(1, 12, 10)
    x = torch.zeros(1, 1, 12, 10, dtype=torch.float64)
    result = lowrank_pgd(linear(weights), x, torch.zeros(1).long(), eps=eps, norm="group-nuc", rank="full", tile=1)
    best = weights.flatten().sort(descending=True).values[: int(eps)].sum()
    assert (result.x * weights).sum() >= 0.9 * best


def test_an_atom_is_one_matrix_of_rank_one_and_length_eps():
    matrices, eps = normal(6, 5, 8, 4), torch.linspace(0, 2, 6).double()
    found = atom(matrices, eps, 0)
    dense = found.left @ found.right
    torch.testing.assert_close(torch.linalg.matrix_norm(dense).amax(1), eps)
    assert ((dense != 0).flatten(2).any(2).sum(1) == (eps > 0)).all()
    best = eps * torch.linalg.matrix_norm(matrices, 2).amax(1)
    torch.testing.assert_close((dense * matrices).sum((1, 2, 3)), best, rtol=1e-4, atol=0)
    assert not torch.isnan(atom(torch.zeros(1, 2, 3, 3), torch.ones(1), 0).left).any()


@pytest.mark.filterwarnings("ignore:.* were not broken")
@pytest.mark.parametrize("options", EVERY, ids=ids)
@pytest.mark.parametrize("kind", ["some", "all", "grey"])
def test_the_realised_norm_is_in_the_ball(colour_net, colour_images, options, kind):
    x, y = colour_images
    x = {"some": x, "all": x.round(), "grey": 0.5 + 0.1 * (x - 0.5)}[kind]
    rectangle, scattered = torch.zeros(12, 10), (normal(12, 10) > 0).float()
    rectangle[2:8, 3:9] = 1
    for mask in (None, rectangle, scattered):
        for eps in (0.3, 2.5) if kind == "some" else (0.3,) if kind == "grey" else (2.5,):
            result = lowrank_pgd(colour_net, x, y, eps=eps, mask=mask, **{"steps": 8, **options})
            realised = norm_of(result.x.double() - x.double(), options)
            assert (realised <= eps * (1 + 1e-6)).all()
            assert (realised >= 0.5 * eps).all() or kind != "grey"
            assert mask is None or torch.equal(result.x * (1 - mask), x * (1 - mask))
            rank = 12 if options["rank"] == "full" else options["rank"]
            values = torch.linalg.svdvals(result.factors.dense().double())
            assert ((values > 1e-5 * values[..., :1]).sum(-1) <= rank).all()
            assert mask is not None or kind != "grey" or eps > 1 or result.rank_held.all()


@pytest.mark.parametrize("options", EVERY[:8], ids=ids[:8])
def test_rank_held_without_a_box(colour_net, colour_images, options):
    x, y = colour_images
    result = lowrank_pgd(colour_net, 0.5 + 0.1 * (x - 0.5), y, eps=0.3, clip=None, **options)
    assert result.rank_held.all()


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_what_holds_for_every_attack(colour_net, colour_images, options):
    x, y = colour_images
    copies = x.clone(), y.clone()
    attack = {"eps": 0.7, "steps": 8, **options}
    result = lowrank_pgd(colour_net, x, y, **attack)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    with torch.no_grad():
        assert torch.equal(result.success, colour_net(result.x).argmax(1) != y)
    for rows in (torch.tensor([3, 0, 6]), torch.tensor([4])):  # a batch is its rows
        some = lowrank_pgd(colour_net, x[rows], y[rows], **attack)
        torch.testing.assert_close(some.x, result.x[rows], atol=1e-5, rtol=0)
        assert result.gap is None or torch.allclose(some.gap, result.gap[rows], atol=1e-5)
    assert lowrank_pgd(colour_net, x[:0], y[:0], **attack).x.shape == (0, 3, 12, 10)
    assert torch.equal(lowrank_pgd(colour_net, x, y, early_stop=True, **attack).success, result.success)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **attack).x, result.x)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **{**attack, "eps": 0}).x, x)
    if "restarts" not in options:
        assert torch.equal(lowrank_pgd(colour_net, x, y, **{**attack, "steps": 0}).x, x)
    target = (y + 1) % 5
    targeted = lowrank_pgd(colour_net, x, target, targeted=True, **attack)
    with torch.no_grad():
        assert torch.equal(targeted.success, colour_net(targeted.x).argmax(1) == target)
        assert ((colour_net(targeted.x) - colour_net(x)).gather(1, target[:, None]) > 0).all()


@pytest.mark.parametrize("options", EVERY, ids=ids)
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 1, 4), (2, 9, 2)])
def test_odd_shapes_and_radii_an_image(options, shape):
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    eps = torch.tensor([0.0, 0.01, 0.1, 2.0])
    rank = options["rank"] if options["rank"] == "full" else min(options["rank"], *shape[1:])
    result = lowrank_pgd(linear(normal(*shape)), x, torch.zeros(4).long(), eps=eps, **{**options, "rank": rank})
    assert (norm_of(result.x.double() - x.double(), options) <= eps.double() * (1 + 1e-6)).all()
    assert (result.x != x).flatten(1).any(1).tolist() == [False, True, True, True]


@pytest.mark.parametrize("options", [{"rank": 4}, {"rank": 4, "method": "frank-wolfe"}, {"rank": "full"}], ids=str)
def test_starts_lie_in_the_ball(options):
    """A start outside is a best iterate that cannot be returned: shortened, it may be worse than what it replaced."""

    def far(x):
        distance = x.square().sum((1, 2, 3))
        return torch.stack([torch.zeros_like(distance), distance - 0.2], 1)

    x, y = torch.zeros(8, 1, 10, 10), torch.zeros(8).long()
    init = Factors(1e-3 * torch.ones(8, 1, 10, 1), torch.ones(8, 1, 1, 10))
    attack = {"eps": 0.5, "norm": "nuc", "clip": None, "steps": 20, "init": init, **options}
    assert lowrank_pgd(far, x, y, **attack).success.all()
    assert lowrank_pgd(far, x, y, restarts=2, **attack).success.all()
    long = init._replace(right=100 * init.right)
    started = lowrank_pgd(far, x, y, **{**attack, "init": long, "steps": 0})
    assert (norm_of(started.factors.dense(), {"norm": "nuc"}) <= 0.5 * (1 + 1e-5)).all()


@pytest.mark.parametrize("options", EVERY[:9], ids=ids[:9])
def test_every_image_shown_to_the_model_is_in_the_ball(colour_net, colour_images, options):
    """The box can raise a nuclear norm; an iterate outside of the ball would be judged for what cannot be returned."""
    x, y = colour_images[0].round(), colour_images[1]
    norms = []

    def listening(images):
        norms.append(norm_of(images.detach().double() - x.double(), options))
        return colour_net(images)

    lowrank_pgd(listening, x, y, eps=1.0, **{**options, "restarts": 1})
    assert torch.stack(norms).max() <= 1 + 1e-3
