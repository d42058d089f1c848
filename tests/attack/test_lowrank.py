"""What holds for every attack: budget, box, rank, independence of the batch, nothing of the caller's changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_lowrank import Factors, lowrank_pgd
from art_lowrank.attack.balls import length
from art_lowrank.spectra import numerical_rank

EVERY = [
    {},
    {"rank": 1},
    {"rank": "full"},
    {"method": "paper", "rank": 2},
    {"method": "paper", "rank": 2, "init": "warm-up"},
    {"rank": 2, "steps": 4},
    {"rank": 2, "loss": "dlr", "restarts": 2},
    {"rank": 2, "step_size": 0.2, "decay": 0.9},
]
ids = [str(options) for options in EVERY]


def shape_net(c, h, w, classes=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 16), nn.Tanh(), nn.Linear(16, classes))


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_inside_budget_and_box(colour_net, colour_images, options):
    x, y = colour_images
    result = lowrank_pgd(colour_net, x, y, eps=0.7, **options)
    assert result.x.shape == x.shape
    assert result.x.dtype == x.dtype
    assert result.x.min() >= 0
    assert result.x.max() <= 1
    assert (length(result.x.double() - x.double()) <= 0.7 * (1 + 1e-6)).all()
    with torch.no_grad():
        assert torch.equal(result.success, colour_net(result.x).argmax(1) != y)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    c=st.sampled_from([1, 3]),
    h=st.integers(2, 9),
    w=st.integers(2, 9),
    eps=st.sampled_from([1e-6, 1e-3, 0.1, 3.0]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    rank=st.sampled_from([1, 0.5, "full"]),
    method=st.sampled_from(["power", "paper"]),
)
def test_budget_holds_for_any_shape_dtype_and_radius(n, c, h, w, eps, dtype, rank, method):
    generator = torch.Generator().manual_seed(n + 10 * h + 100 * w)
    x = torch.rand(n, c, h, w, generator=generator).to(dtype)
    net = shape_net(c, h, w)
    result = lowrank_pgd(
        lambda images: net(images.float()), x, torch.zeros(n).long(), eps=eps, rank=rank, method=method, steps=3
    )
    assert result.x.dtype == dtype
    assert (length(result.x.double() - x.double()) <= eps * (1 + 1e-6)).all()
    assert result.factors.left.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("options", EVERY[:5], ids=ids[:5])
def test_factors_make_the_images(colour_net, colour_images, options):
    x, y = colour_images
    result = lowrank_pgd(colour_net, x, y, eps=0.7, **options)
    torch.testing.assert_close(result.factors.apply(x), result.x, atol=1e-6, rtol=0)
    if options.get("rank") != "full":
        rank = options.get("rank", 1)
        assert (numerical_rank(result.factors.dense(), 1e-5) <= rank).all()


def test_rank_held_is_true_only_where_it_is(colour_net, colour_images):
    x, y = colour_images
    inside = lowrank_pgd(colour_net, 0.5 + 0.1 * (x - 0.5), y, eps=0.3, rank=2)
    assert inside.rank_held.all()
    clipped = lowrank_pgd(colour_net, x, y, eps=2.0, rank=2)
    assert not clipped.rank_held.any()
    assert (numerical_rank(clipped.x - x).amax(1) > 2).all()


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_a_batch_is_its_rows(colour_net, colour_images, options):
    x, y = colour_images
    whole = lowrank_pgd(colour_net, x, y, eps=0.7, **options).x
    order = torch.tensor([3, 0, 6])
    torch.testing.assert_close(
        lowrank_pgd(colour_net, x[order], y[order], eps=0.7, **options).x, whole[order], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        lowrank_pgd(colour_net, x[4:5], y[4:5], eps=0.7, **options).x, whole[4:5], atol=1e-5, rtol=0
    )


def test_per_image_radii(colour_net, colour_images):
    x, y = colour_images
    eps = torch.linspace(0, 0.6, 7)
    result = lowrank_pgd(colour_net, x, y, eps=eps, rank=2)
    assert torch.equal(result.x[0], x[0])
    torch.testing.assert_close(result.factors.norm(), eps, atol=1e-6, rtol=1e-5)
    single = lowrank_pgd(colour_net, x[4:5], y[4:5], eps=float(eps[4]), rank=2).x
    torch.testing.assert_close(result.x[4:5], single, atol=1e-5, rtol=0)
    shaped = lowrank_pgd(colour_net, x, y, eps=eps.reshape(7, 1, 1, 1), rank=2)
    assert torch.equal(shaped.x, result.x)


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_zero_radius_gives_the_input(colour_net, colour_images, options):
    x, y = colour_images
    assert torch.equal(lowrank_pgd(colour_net, x, y, eps=0, **options).x, x)


def test_zero_steps_give_the_input(colour_net, colour_images):
    x, y = colour_images
    result = lowrank_pgd(colour_net, x, y, eps=0.5, steps=0)
    assert torch.equal(result.x, x)
    assert result.queries.gradients.sum() == 0


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_empty_batch(colour_net, options):
    result = lowrank_pgd(colour_net, torch.zeros(0, 3, 12, 10), torch.zeros(0).long(), eps=0.5, **options)
    assert result.x.shape == (0, 3, 12, 10)
    assert len(result.success) == 0


def test_memory_layouts_do_not_matter(colour_net, colour_images):
    x, y = colour_images
    plain = lowrank_pgd(colour_net, x, y, eps=0.5, rank=2).x
    last = x.to(memory_format=torch.channels_last)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (last, strided):
        assert torch.equal(lowrank_pgd(colour_net, other, y, eps=0.5, rank=2).x, plain)


@pytest.mark.parametrize(
    "clip", [None, (-1.0, 2.0), (torch.zeros(3, 1, 1), torch.full((3, 1, 1), 1.0)), (0, 255), (np.float32(0), 1)]
)
def test_any_clip_range(colour_net, colour_images, clip):
    x, y = colour_images
    wide = 200.0 if clip is not None and not isinstance(clip[1], torch.Tensor) and clip[1] > 2 else 1.0
    result = lowrank_pgd(lambda images: colour_net(images / wide), x * wide, y, eps=3.0 * wide, rank=2, clip=clip)
    low, high = (-1e9, 1e9) if clip is None else (float(torch.as_tensor(bound).max()) for bound in clip)
    assert result.x.min() >= low
    assert result.x.max() <= high
    if clip is None:
        assert result.rank_held.all()
        assert result.x.min() < 0


def test_seeds_and_entropy(colour_net, colour_images):
    x, y = colour_images
    before = torch.random.get_rng_state()
    attack = {"eps": 0.5, "rank": 1, "steps": 2}
    first, again = (lowrank_pgd(colour_net, x, y, seed=5, **attack) for _ in range(2))
    other, fresh = (lowrank_pgd(colour_net, x, y, seed=seed, **attack) for seed in (6, None))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(lowrank_pgd(colour_net, x, y, seed=fresh.seed, **attack).x, fresh.x)
    assert torch.equal(before, torch.random.get_rng_state())


def test_nothing_of_the_callers_changes(colour_net, colour_images):
    x, y = colour_images
    colour_net.train()
    colour_net[1].eval()
    colour_net[0].weight.requires_grad_(False)
    colour_net[5].weight.grad = torch.ones_like(colour_net[5].weight)
    before = {name: value.clone() for name, value in colour_net.state_dict().items()}
    copies = x.clone(), y.clone()
    lowrank_pgd(colour_net, x.requires_grad_(), y, eps=0.5)
    assert [m.training for m in colour_net] == [True, False, True, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in colour_net.state_dict().items())
    assert not colour_net[0].weight.requires_grad
    assert torch.equal(colour_net[5].weight.grad, torch.ones_like(colour_net[5].weight))
    assert x.grad is None
    assert torch.equal(x.detach(), copies[0])
    assert torch.equal(y, copies[1])


def test_modes_come_back_after_an_exception(colour_images):
    x, y = colour_images

    class Broken(nn.Module):
        def forward(self, images):
            raise RuntimeError("no forward today")

    net = Broken().train()
    with pytest.raises(RuntimeError, match="today"):
        lowrank_pgd(net, x, y, eps=0.5)
    assert net.training


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_switched_off(colour_net, colour_images, context):
    x, y = colour_images
    for options in ({}, {"method": "paper", "init": "warm-up"}, {"rank": "full"}):
        plain = lowrank_pgd(colour_net, x, y, eps=0.5, **options).x
        with context():
            assert torch.equal(lowrank_pgd(colour_net, x.clone(), y.clone(), eps=0.5, **options).x, plain)


def test_mask_confines_the_perturbation_and_uses_the_budget(colour_net, colour_images):
    x, y = colour_images
    x = 0.5 + 0.2 * (x - 0.5)  # away from the box
    disc = (torch.arange(12.0)[:, None] - 5.5) ** 2 + (torch.arange(10.0) - 4.5) ** 2 < 16
    for mask in (disc, torch.tensor([1, 0, 1]).reshape(3, 1, 1), torch.ones(1, 1, 1, 1)):
        result = lowrank_pgd(colour_net, x, y, eps=0.3, rank=2, mask=mask)
        outside = ~(mask != 0).expand(x.shape)
        assert torch.equal(result.x[outside], x[outside])
        torch.testing.assert_close(length(result.x - x), torch.full((7,), 0.3), atol=1e-5, rtol=0)


def test_masked_factors_need_their_mask(colour_net, colour_images):
    x, y = colour_images
    mask = torch.rand(12, 10, generator=torch.Generator().manual_seed(0)) > 0.5
    result = lowrank_pgd(colour_net, x, y, eps=0.7, rank=2, mask=mask)
    torch.testing.assert_close(result.factors.apply(x, mask=mask), result.x, atol=1e-5, rtol=0)
    assert not result.rank_held.any()


def test_the_best_iterate_is_kept(digits_net, test_digits):
    """With steps this long the last iterate is often worse than an earlier one."""
    x, y = test_digits
    margins = []

    def listening(images):
        logits = digits_net(images)
        own = logits.gather(1, y[:, None])[:, 0]
        margins.append((logits.scatter(1, y[:, None], -torch.inf).amax(1) - own).detach())
        return logits

    result = lowrank_pgd(listening, x, y, eps=0.5, rank=2, step_size=5.0)
    torch.testing.assert_close(result.margin, torch.stack(margins).amax(0))
    assert (margins[-1] < result.margin - 1e-3).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_box_does_not_swallow_the_budget(seed):
    """On a black image only what brightens counts: without the mask the attack stays below what is possible."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(1, 1, 16, 16, generator=generator)
    x, y = torch.zeros(1, 1, 16, 16), torch.zeros(1).long()

    def net(images):
        score = (images * weights).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)

    from art_lowrank.attack.factors import truncated

    bright = truncated(weights.clamp_min(0), 3).dense()
    possible = (0.5 * bright / length(bright)).clamp_min(0) * weights
    reached = (lowrank_pgd(net, x, y, eps=0.5, rank=3).x * weights).sum()
    assert reached >= 1.05 * possible.sum()


def test_a_broken_image_stays_broken(colour_images):
    """A model that goes mad later (infinite logits) must not undo a success already seen."""
    x, y = colour_images
    calls = []

    def mad(images):
        calls.append(1)
        logits = torch.stack([images.sum((1, 2, 3)) * 1e-3, images.flatten(1)[:, 0], images.flatten(1)[:, 1] + 3], 1)
        return logits if len(calls) < 5 else logits + torch.tensor([torch.inf, 0, 0])

    result = lowrank_pgd(mad, x, y * 0, eps=1.0, rank=2, steps=8)
    assert result.success.all()


def test_autocast_stays_with_the_model(colour_net, colour_images):
    x, y = colour_images
    seen = []

    def watching(images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return colour_net(images)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = lowrank_pgd(watching, x, y, eps=0.5, rank=2, clip=None)
    assert all(seen)
    assert result.rank_held.all()
    assert (numerical_rank(result.factors.dense(), 1e-5) <= 2).all()


def test_transfer_starts_from_the_given_factors(digits_net, test_digits):
    x, y = test_digits
    found = lowrank_pgd(digits_net, x, y, eps=0.5, rank=2)
    for method in ("power", "paper"):
        continued = lowrank_pgd(digits_net, x, y, eps=0.5, rank=2, init=found.factors, steps=0, method=method)
        torch.testing.assert_close(continued.x, found.x, atol=1e-5, rtol=0)
    longer = lowrank_pgd(digits_net, x, y, eps=0.5, rank=4, init=found.factors, steps=5)
    assert (longer.margin >= found.margin - 1e-5).all()
    assert longer.success.sum() >= found.success.sum()
    shorter = lowrank_pgd(digits_net, x, y, eps=0.5, rank=1, init=found.factors, steps=1)
    assert shorter.factors.rank == 1


def test_more_steps_restarts_rank_and_radius_never_hurt_much(digits_net, test_digits):
    """The best iterate is kept, so on the whole more effort breaks more."""
    x, y = test_digits

    def broken(**options):
        return int(lowrank_pgd(digits_net, x, y, **{"eps": 0.7, "rank": 2, **options}).success.sum())

    assert broken(restarts=3) >= broken()
    assert broken(rank=1) < broken(rank=2) <= broken(rank="full") + 1
    assert broken(eps=0.3) < broken(eps=0.7) < broken(eps=1.0)
    assert broken(steps=1) <= broken(steps=20)


def test_state_is_two_sets_of_factors(colour_net, colour_images, monkeypatch):
    """At most 2 C r (H + W) floats an image live on from step to step: the iterate and the best one."""
    from art_lowrank.attack import loop

    x, y = colour_images
    sizes = []
    note = loop.Ledger.note

    def counting(self, rows, factors, margin):
        sizes.append(sum(t.numel() for pair in (self.factors, factors) for t in pair) / len(x))
        note(self, rows, factors, margin)

    monkeypatch.setattr(loop.Ledger, "note", counting)
    lowrank_pgd(colour_net, x, y, eps=0.5, rank=2)
    assert max(sizes) <= 2 * 3 * 2 * (12 + 10)


def test_the_result_names_its_loss_and_method(colour_net, colour_images):
    x, y = colour_images
    ours = lowrank_pgd(colour_net, x, y, eps=0.5)
    paper = lowrank_pgd(colour_net, x, y, eps=0.5, method="paper")
    assert (ours.attack, ours.loss) == ("lowrank-pgd[power]", "smooth-margin, margin")
    assert (paper.attack, paper.loss) == ("lora-pgd[paper]", "ce")


def test_factors_are_a_pair():
    left, right = Factors(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 1, 2))
    assert left.shape == (1, 1, 2, 1)
    assert right.shape == (1, 1, 1, 2)
