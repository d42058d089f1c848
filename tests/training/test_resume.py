"""A run that was stopped, by whatever, and goes on has the weights of one that was not."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from art_lowrank.training import Folder, Learner, Objective, Pgd, SingleStep, attach, train
from art_lowrank.training.loop import Course, shuffled
from art_lowrank.weights import factorize

METHODS = {
    "condlr": ("condlr", {}),
    "condlr, tightening": ("condlr", {"over": 8}),
    "condlr and penalty": ("condlr", {"beta": 0.1}),
    "dlrt": ("dlrt", {"cycle": 4}),
    "dlrt, tolerant": ("dlrt", {"cycle": 3, "tolerance": 0.4}),
    "none": ("none", {}),
    "nuclear": ("nuclear", {"nuclear": 0.05, "sparse": 1e-3, "every": 4}),
}
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=1e-3),
}
EPOCHS, STEPS = 3, 3  # steps of 32 images an epoch


def learner(name, optimizer="adam", objective=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(216, 24),
            nn.ReLU(),
            nn.Linear(24, 4),
        )
        with torch.no_grad():
            net[5].weight.mul_(torch.logspace(0, -2, 24)[:, None])
    method, options = METHODS[name]
    if method != "nuclear":
        factorize(net, keep=0.5)
    steps = OPTIMIZERS[optimizer](net.parameters())
    handles = attach(method, net, steps, options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, EPOCHS)
    return Learner(net, net, steps, objective or Objective(), handles, schedule)


def run(one, folder=None, epochs=EPOCHS, accuracies=(0.5,) * EPOCHS):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.rand(96, 1, 6, 6, generator=generator), torch.randint(0, 4, (96,), generator=generator)
    left = iter(accuracies)
    batches = shuffled(x, y, 32, 7, torch.device("cpu"))
    return train(one, batches, Course(epochs, 7, verbose=False), lambda: {"clean": next(left)}, folder)


def flat(state):
    """Every number and tensor of a nested state by its path."""
    if isinstance(state, dict):
        return {f"{key}/{rest}": value for key, part in state.items() for rest, value in flat(part).items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)))
    return {"": state}


def same(first, second):
    first, second = flat(first.state()), flat(second.state())
    assert first.keys() == second.keys()
    for name, value in first.items():
        alike = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert alike, name


def without_times(history):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


class Stop:
    """A hook that interrupts after this many steps of the optimizer."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_stopped_between_epochs(name, optimizer, tmp_path):
    whole, first, second = (learner(name, optimizer) for _ in range(3))
    known = run(whole)
    run(first, Folder(tmp_path, {}), epochs=1)
    found = run(second, Folder(tmp_path, {}))
    same(whole, second)
    assert without_times(found) == without_times(known)


@pytest.mark.parametrize("at", [2, STEPS, STEPS + 2])
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_and_called_again_with_the_same_objects(name, at, tmp_path):
    """As in a notebook: what the interrupted epoch left in model, optimizer and method must not shine through."""
    whole, one = learner(name), learner(name)
    run(whole)
    run(one, Folder(tmp_path, {}), epochs=1)
    hook = one.optimizer.register_step_post_hook(Stop(at))
    with pytest.raises(KeyboardInterrupt):
        run(one, Folder(tmp_path, {}))
    hook.remove()
    run(one, Folder(tmp_path, {}))
    same(whole, one)


@pytest.mark.parametrize("objective", [("madry", SingleStep(0.1)), ("trades", Pgd(0.2, steps=2, rank=2))])
def test_attacks_go_on_where_they_were(objective, tmp_path):
    whole, first, second = (learner("condlr", objective=Objective(*objective)) for _ in range(3))
    run(whole)
    run(first, Folder(tmp_path, {}), epochs=2)
    run(second, Folder(tmp_path, {}))
    same(whole, second)


def test_a_finished_run_changes_nothing(tmp_path):
    one = learner("condlr")
    known = run(one, Folder(tmp_path, {}))
    before = (tmp_path / "last.pt").read_bytes()
    again = learner("condlr")
    assert run(again, Folder(tmp_path, {})) == known
    same(one, again)
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("file", ["save_best", "save"])
def test_stopped_while_saving(tmp_path, monkeypatch, file, moment):
    """Before, between or after the two files: the second epoch is repeated, or its files are both there."""
    whole, first, second = (learner("condlr") for _ in range(3))
    accuracies = [0.5, 0.6, 0.4]
    run(whole, Folder(tmp_path / "whole", {}), accuracies=accuracies)
    real, calls = getattr(Folder, file), []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) < 2 or moment == "after":
            real(*arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Folder, file, stopping)
    with pytest.raises(KeyboardInterrupt):
        run(first, Folder(tmp_path / "stopped", {}), accuracies=accuracies)
    monkeypatch.undo()
    done = len(torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)["history"])
    run(second, Folder(tmp_path / "stopped", {}), accuracies=accuracies[done:])
    same(whole, second)
    best = [load_file(tmp_path / name / "best.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())
