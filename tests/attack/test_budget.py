"""use_budget=True: perturbations that are eps long after the box, where without it the box has shortened them."""

from __future__ import annotations

import pytest
import torch

from art_lowrank import lowrank_pgd
from art_lowrank.attack.balls import length

EVERY = [{"rank": 1}, {"rank": 3}, {"rank": "full"}, {"rank": 2, "step_size": 0.3, "decay": 0.9}]
ids = [str(options) for options in EVERY]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(weights):
    def net(x):
        score = (x * weights.to(x)).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)

    return net


def ratio(result, x, eps):
    return length(result.x.double() - x.double()) / eps


def small_rank(result, rank):
    values = torch.linalg.svdvals(result.factors.dense().double())
    return bool(((values > 1e-5 * values[..., :1]).sum(-1) <= rank).all())


@pytest.mark.parametrize(("eps", "rank"), [(0.3, 3), (1.0, 2), (2.0, 1)])
def test_digits_are_moved_as_far_as_allowed(digits_net, test_digits, eps, rank):
    x, y = test_digits.x[:60], test_digits.y[:60]
    plain = lowrank_pgd(digits_net, x, y, eps=eps, rank=rank)
    full = lowrank_pgd(digits_net, x, y, eps=eps, rank=rank, use_budget=True)
    assert (ratio(plain, x, eps) < 0.99).any()
    assert (ratio(full, x, eps) <= 1 + 1e-6).all()
    assert (ratio(full, x, eps) >= 1 - 1e-3).float().mean() >= 0.85
    assert ratio(full, x, eps).mean() > ratio(plain, x, eps).mean()
    assert full.success.sum() >= plain.success.sum() - 2
    assert small_rank(full, rank)
    with torch.no_grad():
        assert torch.equal(full.success, digits_net(full.x).argmax(1) != y)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("rank", [1, 3, "full"])
def test_black_and_white_images(value, rank):
    weights = normal(3, 12, 10)
    x, y = torch.full((4, 3, 12, 10), value), torch.zeros(4).long()
    eps = torch.tensor([0.1, 0.5, 1.0, 2.0])
    plain = lowrank_pgd(linear(weights), x, y, eps=eps, rank=rank)
    full = lowrank_pgd(linear(weights), x, y, eps=eps, rank=rank, use_budget=True)
    torch.testing.assert_close(ratio(full, x, eps), torch.ones(4).double(), atol=1e-3, rtol=0)
    assert (ratio(full, x, eps) <= 1 + 1e-6).all()
    assert rank == "full" or (ratio(plain, x, eps) < 1 - 4e-4).any()
    gains = [((result.x - x) * weights).sum((1, 2, 3)) for result in (plain, full)]
    assert (gains[1] >= gains[0] * (1 - 1e-4)).all()
    assert rank == "full" or small_rank(full, rank)


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_without_a_box_it_changes_nothing(colour_net, colour_images, options):
    x, y = colour_images
    attack = {"eps": 0.7, "clip": None, **options}
    if "step_size" in options:  # there the perturbation may stay inside the ball, and is made longer
        attack["step_size"] = 5.0
    plain, full = (lowrank_pgd(colour_net, x, y, use_budget=flag, **attack) for flag in (False, True))
    torch.testing.assert_close(full.x, plain.x, atol=1e-4, rtol=0)
    assert torch.equal(full.success, plain.success)


def test_short_steps_are_made_long_too(colour_net, colour_images):
    x, y = colour_images
    full = lowrank_pgd(colour_net, 0.5 + 0.1 * (x - 0.5), y, eps=0.7, rank=2, step_size=1e-3, use_budget=True)
    assert (ratio(full, 0.5 + 0.1 * (x - 0.5), 0.7) <= 1 + 1e-6).all()


@pytest.mark.parametrize("kind", ["colour", "black", "black outside", "black inside"])
@pytest.mark.parametrize("rank", [2, "full"])
def test_with_a_mask_every_iterate_is_in_the_ball(kind, rank):
    """Scaled as if there were no mask, an iterate on the mask is longer than eps, or shorter."""
    x = torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    x = x.clamp(0, 1) if kind == "colour" else torch.zeros(5, 3, 12, 10)
    mask, lengths = (normal(12, 10) > 0).float(), []
    if "side" in kind:
        x = x + 0.5 * (mask if kind == "black outside" else 1 - mask)
    weights = normal(3, 12, 10)

    def listening(images):
        lengths.append(length(images.double().detach() - x.double()))
        return linear(weights)(images)

    result = lowrank_pgd(listening, x, torch.zeros(5).long(), eps=2.0, rank=rank, mask=mask, use_budget=True)
    assert (torch.stack(lengths[:21]) <= 2.0 * (1 + 1e-5)).all()
    assert (ratio(result, x, 2.0) >= 1 - 2e-3).all()
    assert torch.equal(result.x * (1 - mask), x * (1 - mask))


@pytest.mark.parametrize("options", EVERY, ids=ids)
def test_what_holds_for_every_attack(colour_net, colour_images, options):
    x, y = colour_images
    copies = x.clone(), y.clone()
    attack = {"eps": 0.7, "use_budget": True, **options}
    result = lowrank_pgd(colour_net, x, y, **attack)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert (ratio(result, x, 0.7) <= 1 + 1e-6).all()
    assert result.x.min() >= 0
    assert result.x.max() <= 1
    for rows in (torch.tensor([3, 0, 6]), torch.tensor([4])):
        some = lowrank_pgd(colour_net, x[rows], y[rows], **attack)
        torch.testing.assert_close(some.x, result.x[rows], atol=1e-5, rtol=0)
    assert lowrank_pgd(colour_net, x[:0], y[:0], **attack).x.shape == (0, 3, 12, 10)
    assert torch.equal(lowrank_pgd(colour_net, x, y, early_stop=True, **attack).success, result.success)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **attack).x, result.x)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **{**attack, "eps": 0}).x, x)
    assert torch.equal(lowrank_pgd(colour_net, x, y, **{**attack, "steps": 0}).x, x)
    target = (y + 1) % 5
    targeted = lowrank_pgd(colour_net, x, target, targeted=True, **attack)
    with torch.no_grad():
        assert torch.equal(targeted.success, colour_net(targeted.x).argmax(1) == target)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        other = lowrank_pgd(lambda images: colour_net(images.float()), x.to(dtype), y, **attack)
        assert (ratio(other, x.to(dtype), 0.7) <= 1 + 1e-6).all()
        assert (ratio(other, x.to(dtype), 0.7) >= 0.95).all()
    small = x[:, :1, :5, :7]
    rank = options["rank"]
    odd = lowrank_pgd(linear(normal(1, 5, 7)), small, y * 0, **{**attack, "rank": rank})
    assert (ratio(odd, small, 0.7) <= 1 + 1e-6).all()


@pytest.mark.parametrize("norm", [float("inf"), "nuc"])
def test_only_for_l2(colour_net, colour_images, norm):
    with pytest.raises(ValueError, match="use_budget is for norm=2"):
        lowrank_pgd(colour_net, *colour_images, eps=0.5, norm=norm, use_budget=True)
