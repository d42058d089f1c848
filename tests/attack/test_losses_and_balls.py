"""Losses by hand, and sets by their definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank.attack.balls import clamp, clamp_, inward, length, nearest, shrink
from art_lowrank.attack.losses import AUTO, ce, dlr, margin, schedule, smooth_margin

LOGITS = torch.tensor([[2.0, 5.0, 1.0], [0.0, -1.0, 3.0]])
LABELS = torch.tensor([1, 0])


def test_by_hand():
    assert margin(LOGITS, LABELS).tolist() == [-3.0, 3.0]
    expected = [torch.logsumexp(torch.tensor([2.0, 1.0]), 0) - 5, torch.logsumexp(torch.tensor([-1.0, 3.0]), 0) - 0]
    torch.testing.assert_close(smooth_margin(LOGITS, LABELS), torch.stack(expected))
    torch.testing.assert_close(dlr(LOGITS, LABELS), torch.tensor([-3 / 4, 3 / 4]))
    torch.testing.assert_close(ce(LOGITS, LABELS), torch.nn.functional.softplus(smooth_margin(LOGITS, LABELS)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), st.integers(0, 3))
def test_the_margin_decides(values, label):
    logits, y = torch.tensor([values]), torch.tensor([label])
    if margin(logits, y) > 0:
        assert logits.argmax(1) != y
    if margin(logits, y) < 0:
        assert logits.argmax(1) == y
    assert smooth_margin(logits, y) >= margin(logits, y) - 1e-5


def test_schedules():
    assert schedule(AUTO, 5) == [smooth_margin, smooth_margin, margin, margin, margin]
    assert schedule(AUTO, 1) == [margin]
    assert schedule("dlr", 2) == [dlr, dlr]
    assert schedule(AUTO, 0) == []


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    eps=st.sampled_from([0.0, 1e-7, 1e-3, 0.3, 10.0]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    scale=st.sampled_from([1e-6, 0.1, 5.0]),
)
def test_nearest_is_in_ball_and_box(seed, eps, dtype, scale):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 5, 4, generator=generator).to(dtype)
    delta = scale * torch.randn(3, 2, 5, 4, generator=generator)
    radius = torch.full((3,), eps)
    moved, shortened = nearest(x, delta, radius, (0.0, 1.0))
    assert moved.dtype == dtype
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (length(moved.double() - x.double()) <= radius.double() * (1 + 1e-6)).all()
    inside = length(delta) <= eps * 0.98
    assert dtype in (torch.float16, torch.bfloat16) or not shortened[inside].any()
    torch.testing.assert_close(moved[~shortened], clamp(x.to(delta) + delta, (0.0, 1.0)).to(dtype)[~shortened])


@pytest.mark.parametrize(
    "box", [None, (0.0, 1.0), (torch.zeros(2, 1, 1), torch.ones(2, 1, 1))], ids=["none", "numbers", "tensors"]
)
def test_clamps_and_inward_agree(box):
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5]).expand(1, 2, 1, 5).clone()
    expected = x if box is None else x.clip(0, 1)
    assert torch.equal(clamp(x, box), expected)
    gradient = torch.ones_like(x)
    kept = inward(gradient, x, box)[0, 0, 0].tolist()
    assert kept == ([1.0] * 5 if box is None else [0.0, 0.0, 1.0, 0.0, 0.0])
    assert torch.equal(clamp_(x.clone(), box), expected)


def test_shrink():
    assert shrink(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([2.0, 2.0, 2.0])).tolist() == [1.0, 1.0, 0.5]
