"""Half precision searches, float32 judges; thorough tries other classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_lowrank import lowrank_pgd


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("early_stop", [False, True])
def test_the_table_is_float32s(digits_net, test_digits, precision, early_stop):
    x, y = test_digits
    settings = {"eps": 0.6, "rank": 2, "steps": 8, "early_stop": early_stop}
    found = lowrank_pgd(digits_net, x, y, precision=precision, **settings)
    plain = lowrank_pgd(digits_net, x, y, **settings)
    assert torch.equal(found.success, digits_net(found.x).argmax(1) != y)
    assert abs(int(found.success.sum()) - int(plain.success.sum())) <= 2
    assert found.x.dtype == found.factors.left.dtype == torch.float32
    assert (found.disputed.claimed & ~found.disputed.refuted & ~found.success).sum() == 0


class Liar(nn.Module):
    """A net that calls every image broken under autocast, and holds on all but some in float32."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        low = torch.is_autocast_enabled("cpu")
        self.calls.append((low, len(x)))
        score = x.sum((1, 2, 3)) + (1000 if low else -30)
        return torch.stack([torch.zeros_like(score), score], 1)


def test_false_claims_are_found_and_attacked_again():
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    x[2] = 1.5  # sums to 24; 1.5 more a pixel reach 30 within the radius, the others cannot
    net = Liar()
    found = lowrank_pgd(net, x, y, eps=2.0, rank=1, steps=3, clip=(0, 4), precision="bf16", early_stop=True)
    assert found.disputed.claimed.tolist() == [True, True, True]
    assert found.disputed.refuted.tolist() == [True, True, True]
    assert found.success.tolist() == [False, False, True]
    assert any(not low and size == 3 for low, size in net.calls)
    assert found.queries.gradients.tolist() == [4, 4, 3]  # one under autocast, the others in float32


def test_the_counts_are_shown(digits_net, test_digits):
    assert "claims refuted" in repr(lowrank_pgd(digits_net, *test_digits, eps=0.6, steps=2, precision="bf16"))
    assert "rank held on" in repr(lowrank_pgd(digits_net, *test_digits, eps=0.6, steps=2, exact_rank=True))


def test_float32_disputes_nothing(digits_net, test_digits):
    assert lowrank_pgd(digits_net, *test_digits, eps=0.6, steps=2).disputed is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types(test_digits, digits_net, dtype):
    import copy

    net = copy.deepcopy(digits_net).to(dtype)
    x = test_digits.x.to(dtype)
    found = lowrank_pgd(net, x, test_digits.y, eps=0.6, rank=2, steps=8)
    assert found.x.dtype == dtype
    assert torch.equal(found.success, net(found.x).argmax(1) != test_digits.y)
    assert ((found.x.double() - x.double()).flatten(1).norm(dim=1) <= 0.6 * (1 + 1e-6)).all()
    reference = lowrank_pgd(digits_net, test_digits.x, test_digits.y, eps=0.6, rank=2, steps=8).success
    assert abs(int(found.success.sum()) - int(reference.sum())) <= 3


class Decoy(nn.Module):
    """Class 1 lures the margin to where its gradient ends; class 2 is farther and within reach."""

    def forward(self, x):
        lure, way = x[:, 0, 0, 0], x[:, 0, 1, 1]
        one = -0.1 - 20 * torch.relu(0.3 - lure)
        two = -8 + 9 * way
        return torch.stack([torch.zeros_like(one), one, two], 1)


def test_thorough_tries_the_other_classes():
    x, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    settings = {"eps": 1.0, "rank": 1, "steps": 6, "loss": "margin", "clip": None}
    with pytest.warns(UserWarning, match="gradient was zero"):
        plain = lowrank_pgd(Decoy(), x, y, **settings)
    assert not plain.success.any()
    thorough = lowrank_pgd(Decoy(), x, y, thorough=True, **settings)
    assert thorough.success.all()
    assert torch.equal(Decoy()(thorough.x).argmax(1), torch.tensor([2, 2]))


def test_thorough_spends_on_survivors_alone(digits_net, test_digits):
    x, y = test_digits
    settings = {"eps": 0.5, "rank": 2, "steps": 8}
    plain = lowrank_pgd(digits_net, x, y, early_stop=True, **settings)
    thorough = lowrank_pgd(digits_net, x, y, thorough=True, **settings)
    assert (thorough.success >= plain.success).all()
    assert torch.equal(thorough.queries.gradients[plain.success], plain.queries.gradients[plain.success])
    assert (thorough.queries.gradients[~thorough.success] == 8 + 2 * 4).all()
    assert torch.equal(thorough.success, digits_net(thorough.x).argmax(1) != y)


def test_thorough_with_two_classes():
    x, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    assert lowrank_pgd(net, x, y, eps=0.1, rank=1, steps=4, thorough=True).x.shape == x.shape
