"""What is written is read back: rank, bound and weights, in every way torch users save a net."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from art_lowrank.weights import LowRankConv2d, LowRankLinear, constrain, factorize, ranks_of

RANKS = {"0": 4, "3": 4, "6": 3, "8": 6, "10": 4}


def held(net, max_cond=1.5):
    """The net with its layers held to a bound."""
    constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=max_cond).remove()
    return net


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def bounds(net):
    return [m.max_cond for m in net.modules() if isinstance(m, LowRankLinear | LowRankConv2d)]


@pytest.mark.parametrize("others", [RANKS, {"0": 2, "3": 1, "6": 1, "8": 4, "10": 5}], ids=["same", "other"])
def test_a_state_dict_carries_weights_rank_and_bound(net, images, others):
    other = factorize(copy.deepcopy(net), ranks=others)
    held(factorize(net, ranks=RANKS))
    state = through_torch(net.state_dict())
    assert {key: value.tolist() for key, value in state.items() if key.endswith("_extra_state")} == {
        f"{name}._extra_state": [rank, 1.5] for name, rank in RANKS.items()
    }
    other.load_state_dict(state)
    assert ranks_of(other) == RANKS
    assert set(bounds(other)) == {1.5}
    assert torch.equal(other(images), net(images))


@pytest.mark.parametrize(("here", "there"), [(2, 5), (5, 2), (3, 3)])
def test_loading_into_a_net_of_other_ranks(here, there):
    x = torch.randn(4, 3, 6, 6)
    nets = [
        nn.Sequential(LowRankConv2d(3, 8, 3, rank, bias=False), nn.Flatten(), LowRankLinear(128, 6, rank))
        for rank in (here, there)
    ]
    mine, theirs = nets
    parameters = list(mine.parameters())
    assert str(mine.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(mine(x), theirs(x))
    assert [m.rank for m in (mine[0], mine[2])] == [there, there]
    assert all(a is b for a, b in zip(parameters, mine.parameters(), strict=True)), "an optimizer would lose them"
    mine(x).sum().backward()
    assert all(p.grad.shape == p.shape for p in mine.parameters())


def test_ranks_of_a_state_dict_make_the_net_it_fits(net, images):
    fresh = copy.deepcopy(net)
    factorize(net, keep=0.5)
    state = net.state_dict()
    assert ranks_of(state) == ranks_of(net)
    factorize(fresh, ranks=ranks_of(state), fresh=True).load_state_dict(state)
    assert torch.equal(fresh(images), net(images))


def test_safetensors(net, images, tmp_path):
    other = factorize(copy.deepcopy(net), ranks={"0": 2, "3": 1, "6": 1, "8": 4, "10": 1})
    held(factorize(net, ranks=RANKS))
    save_model(net, tmp_path / "net.safetensors")
    assert load_model(other, tmp_path / "net.safetensors") == (set(), [])
    assert torch.equal(other(images), net(images))
    assert set(bounds(other)) == {1.5}
    assert ranks_of(other) == ranks_of(net)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole_and_separate(net, images, copied):
    held(factorize(net, ranks=RANKS))
    other = copied(net)
    assert torch.equal(other(images), net(images))
    assert bounds(other) == bounds(net)
    assert ranks_of(other) == ranks_of(net)
    with torch.no_grad():
        other[0].weight_s.mul_(2)
    assert not torch.equal(other(images), net(images))


def test_a_bound_is_never_loosened_by_loading():
    strict, loose = held(nn.Sequential(LowRankLinear(9, 9, 4)), 1.2), nn.Sequential(LowRankLinear(9, 9, 3))
    loose[0].weight_s.data.copy_(torch.tensor([9.0, 3.0, 1.0]))
    assert loose[0].max_cond == math.inf
    strict.load_state_dict(loose.state_dict())
    assert strict[0].max_cond == 1.2
    assert strict[0].rank == 3
    loose.load_state_dict(held(nn.Sequential(LowRankLinear(9, 9, 2)), 1.3).state_dict())
    assert loose[0].max_cond == 1.3


def test_weights_that_violate_the_bound_are_brought_below_it(cond64):
    net = held(nn.Sequential(LowRankLinear(9, 8, 3)))
    state = copy.deepcopy(net.state_dict())
    state["0.weight_s"] = torch.tensor([9.0, 3.0, 1.0])
    state["0.weight_u"] = torch.randn(8, 3)
    net.load_state_dict(state)
    assert cond64(net[0]) <= 1.5


def test_weights_within_the_bound_are_loaded_to_the_bit():
    net = held(nn.Sequential(LowRankLinear(9, 8, 4)))
    state = copy.deepcopy(net.state_dict())
    state["0.weight_s"] = torch.tensor([1.49, 1.0, 1.0, 1.0])
    net.load_state_dict(state)
    assert net[0].weight_s.tolist() == state["0.weight_s"].tolist()
    assert torch.equal(net[0].weight_u, state["0.weight_u"])


def test_what_does_not_fit_is_torchs_error():
    net = nn.Sequential(LowRankLinear(9, 8, 3))
    before = copy.deepcopy(net.state_dict())
    for other in (LowRankLinear(7, 8, 3), LowRankLinear(9, 5, 3), LowRankLinear(7, 8, 2)):
        with pytest.raises(RuntimeError, match=r"size mismatch for 0\.weight_"):
            net.load_state_dict({f"0.{name}": value for name, value in other.state_dict().items()})
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict({**before, "0.weight_v": torch.zeros(9, 4)})
    with pytest.raises(RuntimeError, match=r'Missing key.*"0.weight_s"'):
        net.load_state_dict({key: value for key, value in before.items() if key != "0.weight_s"})
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict(nn.Sequential(nn.Linear(9, 8)).state_dict())
    assert net[0].rank == 3
    assert net(torch.ones(1, 9)).shape == (1, 8)


def test_loading_in_the_middle_of_a_core_step():
    """dlrt's core is a matrix then."""
    here, there = (nn.Sequential(LowRankLinear(9, 8, rank)) for rank in (3, 4))
    there[0].weight_s = nn.Parameter(torch.randn(4, 4))
    here.load_state_dict(there.state_dict())
    x = torch.randn(2, 9)
    assert torch.equal(here(x), there(x))
