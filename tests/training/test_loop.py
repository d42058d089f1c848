"""The loop: what an epoch is, schedulers, history, early stop, best and last, and a loss that breaks."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import lr_scheduler

from art_lowrank.training import Diverged, Folder, Learner, Objective, attach, train
from art_lowrank.training.loop import Course, shuffled
from art_lowrank.weights import factorize, low_rank_layers, ranks_of

CPU = torch.device("cpu")


def data(n=96):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, 1, 6, 6, generator=generator)
    return x, torch.randint(0, 4, (n,), generator=generator)


def small(method="condlr", lr=1e-2, dropout=0.0, optimizer=torch.optim.Adam, options=None, **rest):
    """A learner on a small net with an uneven spectrum; all of it follows from fixed seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(216, 24),
            nn.ReLU(),
            nn.Linear(24, 4),
        )
        with torch.no_grad():
            net[5].weight.mul_(torch.logspace(0, -2, 24)[:, None])
    if method != "nuclear":
        factorize(net, keep=0.5)
    steps = optimizer(net.parameters(), lr=lr)
    handles = attach(method, net, steps, options or {})
    return Learner(net, net, steps, rest.pop("objective", Objective()), handles, **rest)


def run(learner, epochs=2, size=32, seed=0, patience=None, **rest):
    return train(learner, shuffled(*data(), size, seed, CPU), Course(epochs, seed, patience, False), **rest)


def weights(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def scripted(*accuracies):
    """A validation that finds what it is told to."""
    left = list(accuracies)
    return lambda: {"clean": left.pop(0)}


class Breaking:
    """Cross-entropy whose value, or only whose gradient, becomes NaN at one call."""

    def __init__(self, at, only_gradient=False):
        self.at, self.calls, self.only_gradient = at, 0, only_gradient

    def __call__(self, outputs, y):
        self.calls += 1
        loss = nn.functional.cross_entropy(outputs, y)
        if self.calls != self.at:
            return loss
        if not self.only_gradient:
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss * 1.0


def test_history_says_what_is_known():
    learner = small()
    found = run(learner, 3, validate=lambda: {"clean": 0.25, "robust": 0.125})
    assert [epoch["epoch"] for epoch in found] == [1, 2, 3]
    for epoch in found:
        assert epoch.keys() == {"epoch", "loss", "accuracy", "lr", "clean", "robust", "cond", "ranks", "seconds"}
        assert epoch["lr"] == 1e-2
        assert (epoch["clean"], epoch["robust"]) == (0.25, 0.125)
        assert epoch["ranks"] == ranks_of(learner.model)
        assert epoch["cond"] <= 1.5
        assert epoch["seconds"] > 0
    assert found[0]["loss"] > found[-1]["loss"]
    assert "shapes" in run(small("nuclear"), 1)[0]


def test_mean_loss_and_accuracy_are_those_of_all_images():
    """With a learning rate of 0 and no dropout the epoch's numbers are those of the net, whatever the batches."""
    learner = small("none", lr=0.0, optimizer=torch.optim.SGD)
    learner.model[1].momentum = 0.0
    x, y = data()
    found = run(learner, 1, size=96)[0]
    learner.model.train()
    outputs = learner.model(x).detach()
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, y)), rel=1e-5)
    assert found["accuracy"] == float((outputs.argmax(1) == y).double().mean())
    sizes = [len(batch) for batch, *_ in shuffled(x[:65], y[:65], 32, 0, CPU)(0)]
    assert sizes == [32, 33]  # no batch of one image
    uneven = small("none", lr=0.0, optimizer=torch.optim.SGD)
    uneven.model[1] = nn.Identity()
    with torch.no_grad():
        known = float(nn.functional.cross_entropy(uneven.model(x), y))
    assert run(uneven, 1, size=40)[0]["loss"] == pytest.approx(known, rel=1e-5)  # batches of 40, 40, 16


def test_batches_hold_every_image_once_in_an_order_of_their_own():
    x, y = torch.arange(50.0)[:, None], torch.arange(50)
    batches = shuffled(x, y, 16, 3, CPU)
    first, again, second = ([int(label) for _, labels, _ in batches(epoch) for label in labels] for epoch in (0, 0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first == again
    assert first != second
    assert first != [int(label) for _, labels, _ in shuffled(x, y, 16, 4, CPU)(0) for label in labels]
    assert all(torch.equal(images[:, 0].long(), labels) for images, labels, _ in batches(0))
    assert all(torch.equal(place.indices, labels) for _, labels, place in batches(0))
    some = shuffled(x, y, 16, 3, CPU, among=torch.tensor([7, 30, 2]))
    assert sorted(int(label) for _, labels, _ in some(0) for label in labels) == [2, 7, 30]


@pytest.mark.parametrize("method", ["condlr", "dlrt", "none", "nuclear"])
def test_follows_from_the_seed_and_leaves_global_random_states(method):
    found = []
    for other, seed in ((1, 5), (2, 5), (3, 6)):
        torch.manual_seed(other), np.random.seed(other), random.seed(other)
        before = torch.get_rng_state(), np.random.get_state(), random.getstate()
        learner = small(method, dropout=0.3)
        run(learner, 2, seed=seed)
        after = torch.get_rng_state(), np.random.get_state(), random.getstate()
        assert torch.equal(before[0], after[0])
        assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
        assert before[2] == after[2]
        found.append(weights(learner))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


def test_random_states_come_back_after_an_exception():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.raises(Diverged):
        run(small(dropout=0.3, objective=Objective(loss=Breaking(2))))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_validation_changes_nothing_of_training():
    plain, watched = small(dropout=0.3), small(dropout=0.3)
    run(plain)
    modes = []

    def validate():
        modes.append(watched.model.training)
        torch.rand(7), np.random.rand(3)
        return {"clean": 0.5}

    run(watched, validate=validate)
    assert modes == [False, False]
    assert equal(weights(plain), weights(watched))


def test_the_bound_holds_after_every_step():
    learner = small(lr=0.3, optimizer=torch.optim.SGD)
    seen = []

    def measure(*_):
        for layer in low_rank_layers(learner.model).values():
            u, s, v = (getattr(layer, name).detach().double().numpy() for name in ("weight_u", "weight_s", "weight_v"))
            values = np.linalg.svd(u * s @ v.T, compute_uv=False)[: layer.rank]
            seen.append(values[0] / values[-1])

    learner.optimizer.register_step_post_hook(measure)
    run(learner, 3)
    assert len(seen) == 3 * 3 * len(low_rank_layers(learner.model)) > 0
    assert max(seen) <= 1.5
    assert max(seen) > 1.4  # it was at work


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.1),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.5, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 4, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=6),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.5)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.001, anneal_epochs=3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


def reference(name, measures):
    """The learning rates of five epochs with a bare optimizer."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler, rates = SCHEDULERS[name](optimizer), []
    for measure in measures:
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step(*([measure] if name == "ReduceLROnPlateau" else []))
    return rates


def scheduled(name):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return Learner(net, net, optimizer, Objective(), scheduler=SCHEDULERS[name](optimizer))


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # torch's own SequentialLR uses what it warns of
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_steps_once_an_epoch_and_goes_on_after_a_stop(name, tmp_path):
    accuracies = [0.5, 0.6, 0.6, 0.7, 0.7]
    known = reference(name, [1 - value for value in accuracies])
    assert len(set(known)) > 1
    found = run(scheduled(name), 5, size=24, validate=scripted(*accuracies))
    assert [epoch["lr"] for epoch in found] == pytest.approx(known, rel=1e-12)
    folder = Folder(tmp_path, {})
    run(scheduled(name), 2, size=24, validate=scripted(*accuracies[:2]), folder=folder)
    resumed = run(scheduled(name), 5, size=24, validate=scripted(*accuracies[2:]), folder=folder)
    assert [epoch["lr"] for epoch in resumed] == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_sees_what_is_best_in_either_mode(mode):
    """Torch's relative threshold wants positive numbers: of negative ones the same again counts as better."""
    learner = scheduled("StepLR")
    plateau = lr_scheduler.ReduceLROnPlateau(learner.optimizer, mode, factor=0.1, patience=0)
    learner = Learner(learner.model, learner.model, learner.optimizer, Objective(), scheduler=plateau)
    found = run(learner, 5, validate=scripted(0.5, 0.6, 0.6, 0.7, 0.7))
    assert [epoch["lr"] for epoch in found] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_sees_the_loss_without_validation():
    learner, seen = scheduled("ReduceLROnPlateau"), []
    learner.scheduler.step = seen.append
    found = run(learner, 2)
    assert seen == [epoch["loss"] for epoch in found]


def test_patience_counts_epochs_without_a_better_one():
    found = run(small(), 9, patience=2, validate=scripted(0.3, 0.5, 0.5, 0.4, 0.9))
    assert len(found) == 4
    assert len(run(small(), 3, patience=2, validate=scripted(0.3, 0.4, 0.5))) == 3
    robust = iter([(0.9, 0.1), (0.8, 0.2), (0.95, 0.2), (0.99, 0.1)])
    found = run(small(), 9, patience=2, validate=lambda: dict(zip(("clean", "robust"), next(robust), strict=True)))
    assert len(found) == 4


def test_best_and_last(tmp_path):
    learner, kept = small(), []
    accuracies = [0.3, 0.7, 0.7, 0.5]

    def validate():
        kept.append(weights(learner))
        return {"clean": accuracies[len(kept) - 1]}

    run(learner, 4, validate=validate, folder=Folder(tmp_path, {"name": "it"}))
    assert equal(load_file(tmp_path / "best.safetensors"), kept[1])
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert equal(last["model"], kept[3])
    assert len(last["history"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.pt"]


def test_the_best_weights_keep_the_bound_that_was_asked_for(tmp_path):
    """While the bound still comes down, an epoch is no candidate: its weights do not keep the promise."""
    learner = small(options={"max_cond": 1.5, "over": 6})
    run(learner, 4, validate=scripted(0.9, 0.8, 0.7, 0.6), folder=Folder(tmp_path, {}))
    best = load_file(tmp_path / "best.safetensors")
    for name in ranks_of(best):
        u, s, v = (best[f"{name}.weight_{part}"].double().numpy() for part in "usv")
        values = np.linalg.svd(u * s @ v.T, compute_uv=False)[: len(s)]
        assert values[0] / values[-1] <= 1.5


def poisoned(method, tmp_path, **rest):
    """What is left when the loss of the second epoch's second step (of three) breaks, and the run up to there."""
    options = {"cycle": 4} if method == "dlrt" else rest.pop("options", {})
    good, broken = (small(method, objective=o, options=options) for o in (Objective(), Objective(loss=Breaking(5))))
    run(good, 1)
    with pytest.raises(Diverged, match="the loss is nan in epoch 2, step 2") as caught:
        run(broken, 3, folder=Folder(tmp_path, {}))
    assert "\n" not in str(caught.value)
    return SimpleNamespace(good=good, broken=broken)


@pytest.mark.parametrize("method", ["condlr", "dlrt", "none", "nuclear"])
def test_a_broken_loss_goes_back_to_the_last_good_epoch(method, tmp_path):
    found = poisoned(method, tmp_path)
    assert equal(weights(found.good), weights(found.broken))
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert equal(last["model"], weights(found.good))
    assert len(last["history"]) == 1


def test_a_broken_loss_leaves_evaluation_mode_as_an_epoch_does(tmp_path):
    found = poisoned("none", tmp_path)
    assert not found.good.model.training
    assert not found.broken.model.training


def test_a_broken_loss_goes_back_to_a_bound_that_was_still_wide(tmp_path):
    found = poisoned("condlr", tmp_path, options={"max_cond": 1.5, "over": 9})
    wide = max(layer.cond() for layer in low_rank_layers(found.good.model).values())
    assert wide > 2
    assert max(layer.cond() for layer in low_rank_layers(found.broken.model).values()) == pytest.approx(wide, rel=1e-6)


@pytest.mark.parametrize("method", ["condlr", "dlrt", "none", "nuclear"])
def test_training_can_go_on_after_a_broken_loss(method, tmp_path):
    """The method and what is trained are back too; moments, which may be broken, begin anew."""
    found = poisoned(method, tmp_path)
    found.good.optimizer.state.clear()
    run(found.good, 2)
    run(found.broken, 2)
    assert equal(weights(found.good), weights(found.broken))


@pytest.mark.parametrize("method", ["condlr", "dlrt", "none", "nuclear"])
@pytest.mark.parametrize("at", [5, 6])  # the second step of the second epoch, and its last, which no loss sees
def test_weights_that_break_are_never_saved(method, at, tmp_path):
    learner = small(method, objective=Objective(loss=Breaking(at, only_gradient=True)), optimizer=torch.optim.SGD)
    with pytest.raises(Diverged):
        run(learner, 2, folder=Folder(tmp_path, {}), validate=lambda: {"clean": 0.1})
    for state in (learner.model.state_dict(), torch.load(tmp_path / "last.pt", weights_only=True)["model"]):
        assert all(bool(torch.isfinite(v).all()) for name, v in state.items() if "extra" not in name)
    assert len(torch.load(tmp_path / "last.pt", weights_only=True)["history"]) == 1
