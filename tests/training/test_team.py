"""Shares, errors and launchers without any second process."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from art_lowrank.training import Learner, Objective, PerturbationStore
from art_lowrank.training.distributed import alone, launched, precision_here, team_here
from art_lowrank.training.loop import in_lanes, shuffled
from art_lowrank.training.moves import Moves, Place
from art_lowrank.training.step import check_team
from art_lowrank.training.team import ALONE, Outcome, added, agree, check_same, first, in_turn, share_of, together
from art_lowrank.training.warm_start import Warm, WarmStart

NAMES = ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@dataclass
class Said:
    """One process of several, the others' part of every talk written down before."""

    rank: int
    size: int
    answers: list = field(default_factory=list)

    def told(self, value):
        return value if self.rank == 0 else self.answers.pop(0)

    def gathered(self, value):
        return self.answers.pop(0)(value)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 16, 17])
def test_shares_are_every_image_once_and_never_a_single_one(n, size):
    shares = [share_of(Said(rank, size), n) for rank in range(size)]
    if size == 1:
        assert shares == [None]
        return
    assert sorted(torch.cat(shares).tolist()) == list(range(n))
    assert all(len(share) != 1 for share in shares) or n == 1
    if n >= 2 * size:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("size", "most"), [(2, 64), (3, 43), (4, 32), (6, 22), (8, 16), (12, 11), (16, 8)])
def test_every_process_owns_as_many_images_of_a_batch(size, most):
    x = torch.zeros(5000, 1)
    sizes, seen = [], []
    for epoch in (0, 1):
        for _, _, place in shuffled(x, torch.arange(5000), 128, 3, torch.device("cpu"), even=True)(epoch):
            if len(place.indices) == 128:
                sizes.append(torch.bincount(place.indices % size, minlength=size))
            seen.append(place.indices)
    assert int(torch.stack(sizes[:-4]).max()) <= most
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(5000).repeat_interleave(2))
    assert len({tuple(indices.tolist()) for indices in seen}) == len(seen)


def test_lanes_are_an_order_of_any_images():
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(997, generator=generator)[:500]
    found = in_lanes(order, generator)
    assert sorted(found.tolist()) == sorted(order.tolist())
    lane = order % 48 == 5
    assert [int(index) for index in found if index % 48 == 5] == order[lane].tolist()  # in a lane as it was


def test_places_are_shared_with_moves():
    place = Place(torch.arange(4) * 3, Moves(torch.arange(8.0).view(4, 2), torch.zeros(4, 2)), 40).rows(
        torch.tensor([2, 0])
    )
    assert place.indices.tolist() == [6, 0]
    assert place.moves.scale.tolist() == [[4, 5], [0, 1]]
    assert place.done == 40


def test_the_radius_rises_with_images_of_all_processes():
    settings = SimpleNamespace(ramp=2.0, low_rank=False)
    warm = object.__new__(Warm)
    store = PerturbationStore(100, (1, 20, 20), 2, shard=(1, 2))
    store.epoch = 1
    for name, value in {"store": store, "eps": 0.4, "settings": settings}.items():
        object.__setattr__(warm, name, value)
    assert warm.radius(7, done=40) == pytest.approx(0.4 * 1.4 / 2)
    assert warm.radius(7) == pytest.approx(0.4 * 1.14 / 2)  # 7 of the 50 that are its own


def test_alone_everything_is_what_it_is():
    def fails():
        raise KeyError("mine")

    net = nn.Linear(2, 2)
    assert ALONE.total(net.bias) is net.bias
    assert ALONE.lead(net.bias) is net.bias
    assert (ALONE.told(3), ALONE.gathered(3)) == (3, [3])
    assert (first(ALONE, lambda: 4), together(ALONE, lambda: 4), in_turn(ALONE, lambda: 4)) == (4, [4], 4)
    agree(ALONE, net)
    check_same(ALONE, "trainings", {"seed": 1})
    assert added(ALONE, [], lambda: torch.ones(2)).tolist() == [1, 1]
    for act in (first, together):
        with pytest.raises(KeyError, match="mine"):
            act(ALONE, fails)


def test_errors_keep_their_kind_and_words():
    for kind, raised in (
        (OSError, OSError),
        (FileNotFoundError, OSError),
        (ZeroDivisionError, ArithmeticError),
        (KeyError, RuntimeError),
    ):

        def fails(kind=kind):
            raise kind("its words")

        with pytest.raises(kind, match="its words"):
            first(Said(0, 2), fails)
        with pytest.raises(kind, match="its words"):
            together(Said(1, 2, [lambda mine: [Outcome(1), mine]]), fails)
        sent = []
        with pytest.raises(kind):
            together(Said(0, 2, [lambda mine, sent=sent: sent.append(mine)]), fails)
        for act, answer in ((first, sent[0]), (together, lambda mine, sent=sent: [sent[0], mine])):
            with pytest.raises(raised, match="its words"):
                act(Said(1, 2, [answer]), lambda: 1)


def test_what_differs_is_named():
    with pytest.raises(
        ValueError, match="trainings differ: seed=2 in process 1, 1 in process 0; start all with the same"
    ):
        check_same(Said(0, 2, [lambda mine: [mine, {"seed": 2}]]), "trainings", {"seed": 1})


def learner(model=None, **given):
    return Learner(model or nn.Linear(2, 2), None, None, Objective(**given))


def test_nets_and_losses_that_several_processes_cannot_train():
    team = Said(1, 2)
    check_team(learner(), team)
    refusals = [
        (learner(nn.Sequential(nn.SyncBatchNorm(2))), "0 is a SyncBatchNorm, which waits for processes without images"),
        (learner(loss=nn.CrossEntropyLoss(reduction="sum")), r"reduction='sum'.*need its mean"),
        (learner(name="madry", adversary=Warm(PerturbationStore(9, (1, 20, 20), 2), 0.5)), r"shard=\(1, 2\)"),
    ]
    for one, message in refusals:
        check_team(one, ALONE)
        with pytest.raises(ValueError, match=message):
            check_team(one, team)


def test_one_process_needs_no_launcher(monkeypatch):
    assert team_here() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert team_here() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE is 'two'; a launcher such as torchrun"):
        launched()


def test_without_accelerate_it_says_what_installs_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    message = "2 processes were launched, and accelerate is not installed; pip install 'art-lowrank[distributed]'"
    with pytest.raises(ValueError, match=re.escape(message)):
        team_here()


@pytest.mark.parametrize(
    ("name", "what"), [("DEEPSPEED", "DeepSpeed"), ("FSDP", "FSDP"), ("MEGATRON_LM", "Megatron-LM")]
)
def test_launchers_that_shard_the_model_are_refused(monkeypatch, name, what):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"{what} shards the model, whose low-rank factors must be whole"):
        team_here()


def test_precision_is_that_of_the_recipe_or_of_the_launcher(monkeypatch):
    assert [precision_here(name) for name in ("float32", "bf16", "fp16")] == ["float32", "bf16", "fp16"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert [precision_here(name) for name in ("float32", "bf16")] == ["bf16", "bf16"]
    with pytest.raises(ValueError, match="precision is 'fp16', and accelerate launch says 'bf16'; give one of them"):
        precision_here("fp16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="--mixed_precision fp8; give no, bf16 or fp16"):
        precision_here()


def test_an_epochs_order_is_the_same_for_any_number_of_processes():
    x = torch.zeros(300, 1)
    orders = [
        [place.indices.tolist() for *_, place in shuffled(x, x, 32, 3, torch.device("cpu"), even=True)(1)] for _ in "ab"
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RANK", None, "RANK is not set; start with torchrun or accelerate launch"),
        ("MASTER_ADDR", None, "MASTER_ADDR is not set"),
        ("MASTER_PORT", None, "MASTER_PORT is not set"),
        ("RANK", "2", "RANK is '2' of WORLD_SIZE 2; it counts from 0"),
        ("RANK", "x", "RANK is 'x'"),
    ],
)
def test_what_a_launcher_would_have_said_is_missing(monkeypatch, name, value, words):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    told = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, text in {**told, name: value}.items():
        if text is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, text)
    with pytest.raises(ValueError, match=re.escape(words)):
        team_here()


def test_launched_but_not_asked_to_train_together(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.warns(UserWarning, match="3 processes were launched, and each trains a net of its own"):
        assert alone() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert alone() is ALONE


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_radius_of_an_own_loop_rises_as_fast_with_any_number_of_processes(size):
    """Half of the images of every process: half of the radius, with a ramp of one epoch."""
    store = PerturbationStore(48, (1, 8, 8), 1, shard=(0, size))
    warm = Warm(store, 1.0, settings=WarmStart(ramp=1.0))
    warm.begin(0)
    assert warm.radius(24 // size) == pytest.approx(0.5)


def test_few_last_images_join_their_neighbours():
    x, y = torch.rand(54, 1), torch.zeros(54)
    even, plain = (shuffled(x, y, 26, 0, torch.device("cpu"), even=even) for even in (True, False))
    assert [len(batch[0]) for batch in even(0)] == [26, 28]
    assert [len(batch[0]) for batch in plain(0)] == [26, 26, 2]


def test_nothing_to_train_is_said():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="holds no parameter that requires a gradient"):
        added(Said(0, 2), frozen.parameters(), lambda: torch.zeros(2))
