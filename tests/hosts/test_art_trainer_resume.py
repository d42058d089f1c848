"""Checkpoints of `LowRankTrainer`: stopped, killed and gone on in another process, with the very same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import load_file
from torch import nn

from art_lowrank import LowRankPGD, LowRankTrainer
from art_lowrank.demo.digits import digits
from art_lowrank.training import Diverged, Pgd, SingleStep, WarmStart

TRAIN = digits()[0]
X, Y = TRAIN.x[:160].numpy(), TRAIN.y[:160].numpy()
EPOCHS, STEPS = 3, 5  # steps of 32 images an epoch


def random_start(classifier):
    return ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.05, max_iter=2, num_random_init=1, random_eps=True, verbose=False
    )


RUNS = {  # optimizer, attack, options
    "condlr adam": ("adam", None, {}),
    "condlr momentum": ("momentum", None, {}),
    "condlr tighten": ("adam", None, {"tighten": 0.8}),
    "dlrt adam": ("adam", None, {"method": "dlrt", "options": {"cycle": 3}}),
    "dlrt momentum": ("momentum", None, {"method": "dlrt", "options": {"cycle": 4, "tolerance": 0.3}}),
    "none adam": ("adam", None, {"method": "none", "ranks": "energy"}),
    "none momentum": ("momentum", None, {"method": "none", "skip": ["9"]}),
    "nuclear adam": ("adam", None, {"method": "nuclear", "options": {"sparse": 1e-3}}),
    "nuclear momentum": ("momentum", None, {"method": "nuclear"}),
    "fresh": ("adam", None, {"fresh": True}),
    "random start": ("adam", random_start, {"objective": "madry"}),
    "low rank": ("adam", lambda c: LowRankPGD(c, eps=0.3, max_iter=2, verbose=False), {"objective": "trades"}),
    "warm start": ("adam", lambda c: Pgd(0.3), {"objective": "madry", "warm_start": True}),
    "warm reset": (
        "momentum",
        lambda c: LowRankPGD(c, norm=np.inf, eps=0.1, verbose=False),
        {"objective": "trades", "warm_start": WarmStart(rank=1, reset=2, ramp=1.5), "method": "dlrt"},
    ),
    "piggyback": ("momentum", lambda c: SingleStep(0.3, 2), {"objective": "madry", "warm_start": WarmStart(steps=0)}),
    "single step": ("momentum", lambda c: SingleStep(0.1), {"objective": "madry", "seed": 4}),
}


def made(optimizer="adam", width=24, dropout=0.3, lr=1e-2, **options):
    """A classifier whose net has batch normalisation, dropout and an uneven spectrum."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(512, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(width, 10),
        )
    with torch.no_grad():
        net[5].weight.mul_(torch.logspace(0, -2, width)[:, None])
    kinds = {
        "adam": lambda p: torch.optim.Adam(p, lr=lr),
        "momentum": lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=1e-3),
    }
    settings = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0.0, 1.0), "device_type": "cpu", **options}
    return PyTorchClassifier(net, loss=nn.CrossEntropyLoss(), optimizer=kinds[optimizer](net.parameters()), **settings)


def fitted(name, folder=None, epochs=EPOCHS, hook=None):
    """One of `RUNS`, whole or up to where `hook` stops it."""
    optimizer, attack, options = RUNS[name]
    classifier = made(optimizer)
    if attack is not None:
        options = {**options, "attack": attack(classifier)}
    trainer = LowRankTrainer(classifier, **{"keep": 0.5, "verbose": False, **options})
    if hook is not None:
        classifier.optimizer.register_step_post_hook(hook)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(classifier.optimizer, EPOCHS)
    data = {"validation_data": (X[:20], Y[:20]), "scheduler": schedule, "checkpoint": folder}
    trainer.fit(X, Y, batch_size=32, nb_epochs=epochs, **data)
    return classifier, trainer


def after(steps, act):
    """A hook that acts after so many steps of the optimizer."""
    taken = []

    def hook(*_):
        taken.append(1)
        if len(taken) == steps:
            act()

    return hook


def interrupt():
    raise KeyboardInterrupt


def stopped_and_killed(folder):
    """What the other process does: every run up to the second epoch, and one killed there by the system."""
    torch.set_num_threads(1)
    for name in RUNS:
        torch.rand(3), np.random.rand(3)  # its global random states are its own
        try:
            fitted(name, folder / name, hook=after(STEPS + 3, interrupt))
        except KeyboardInterrupt:
            continue
    kill = after(STEPS + 2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    fitted("condlr adam", folder / "killed", hook=kill)


if __name__ == "__main__":
    stopped_and_killed(Path(sys.argv[1]))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Checkpoints that another process left."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, __file__, folder], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    return folder


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def equal(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def plain(history):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def moments(classifier):
    return [value for state in classifier.optimizer.state_dict()["state"].values() for value in state.values()]


@pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX's")
@pytest.mark.parametrize("name", RUNS)
def test_goes_on_in_another_process(elsewhere, name):
    assert len(torch.load(elsewhere / name / "last.pt", weights_only=True)["history"]) == 1
    whole, rest = fitted(name), fitted(name, elsewhere / name)
    assert equal(whole[0], rest[0])
    assert plain(whole[1].history) == plain(rest[1].history)
    assert len(rest[1].history) == EPOCHS
    for one, other in zip(moments(whole[0]), moments(rest[0]), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX's")
def test_goes_on_after_a_kill(elsewhere):
    folder = elsewhere / "killed"
    assert sorted(path.name for path in folder.iterdir()) == ["best.safetensors", "last.pt"]
    whole, rest = fitted("condlr adam"), fitted("condlr adam", folder)
    assert equal(whole[0], rest[0])


@pytest.mark.parametrize("name", RUNS)
def test_goes_on_with_the_same_trainer(name, tmp_path):
    """An interrupt in a notebook, and the cell run again."""
    optimizer, attack, options = RUNS[name]
    classifiers = made(optimizer), made(optimizer)
    for index, classifier in enumerate(classifiers):
        more = {} if attack is None else {"attack": attack(classifier)}
        trainer = LowRankTrainer(classifier, **{"keep": 0.5, "verbose": False, **options, **more})
        folder = tmp_path / str(index)
        if index:
            hook = classifier.optimizer.register_step_post_hook(after(STEPS + 3, interrupt))
            with pytest.raises(KeyboardInterrupt):
                trainer.fit(X, Y, batch_size=32, nb_epochs=EPOCHS, checkpoint=folder)
            hook.remove()
        trainer.fit(X, Y, batch_size=32, nb_epochs=EPOCHS, checkpoint=folder)
    assert equal(*classifiers)


def run(folder, classifier=None, fit=None, **options):
    trainer = LowRankTrainer(classifier or made(), **{"keep": 0.5, "verbose": False, **options})
    trainer.fit(**{"x": X, "y": Y, "batch_size": 32, "nb_epochs": 1, "checkpoint": folder, **(fit or {})})
    return trainer


def test_more_epochs_go_on(tmp_path):
    longer, whole = made(), made()
    for epochs in (1, 2, 4):
        found = run(tmp_path / "a", longer if epochs == 4 else None, fit={"nb_epochs": epochs})
    assert [epoch["epoch"] for epoch in found.history] == [1, 2, 3, 4]
    run(tmp_path / "b", whole, fit={"nb_epochs": 4})
    assert equal(longer, whole)
    fewer = run(tmp_path / "a", fit={"nb_epochs": 2})  # what is done is done
    assert len(fewer.history) == 4


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    kept, classifier = [], made()

    def attack(logits, x, y, number):
        if not classifier.model.training and len(x) == 20:
            kept.append(weights(classifier))
        return x

    fit = {"nb_epochs": 6, "validation_data": (X[:20], Y[:20])}
    trainer = LowRankTrainer(classifier, keep=0.5, attack=attack, objective="madry", verbose=False)
    trainer.fit(X, Y, batch_size=32, checkpoint=tmp_path, **fit)
    robust = [epoch["robust"] for epoch in trainer.history]
    best = robust.index(max(robust))
    found = load_file(tmp_path / "best.safetensors")
    by_epoch = kept[-len(robust) :]
    assert all(torch.equal(found[name], by_epoch[best][name]) for name in found)


OTHERS = [
    ("keep", {"keep": 0.6}, {}, {}),
    ("method", {"method": "none"}, {}, {}),
    ("options", {"max_cond": 2.0}, {}, {}),
    ("seed", {"seed": 1}, {}, {}),
    ("ranks", {"ranks": "energy"}, {}, {}),
    ("skip", {"skip": ["9"]}, {}, {}),
    ("fresh", {"fresh": True}, {}, {}),
    ("tighten", {"tighten": 0.5}, {}, {}),
    ("attack", {"attack": SingleStep(0.1), "objective": "madry"}, {}, {}),
    ("batch_size", {}, {"batch_size": 16}, {}),
    ("data", {}, {"x": X[::-1], "y": Y}, {}),
    ("data", {}, {"x": X, "y": Y[::-1]}, {}),
    ("architecture", {}, {}, {"width": 20}),
    ("optimizer", {}, {}, {"lr": 2e-2}),
    ("optimizer", {}, {}, {"optimizer": "momentum"}),
    ("preprocessing", {}, {}, {"preprocessing": (0.5, 0.2)}),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    run(folder)
    return folder


@pytest.mark.parametrize(("name", "options", "fit", "net"), OTHERS)
def test_another_configuration_is_refused_by_name(checkpoint, name, options, fit, net):
    before = (checkpoint / "last.pt").read_bytes()
    classifier = made(**net)
    untouched = weights(classifier)
    with pytest.raises(ValueError, match=f"holds training with {name}=.*resume=False .*to begin anew") as caught:
        run(checkpoint, classifier, fit, **options)
    assert "\n" not in str(caught.value)
    assert (checkpoint / "last.pt").read_bytes() == before
    assert untouched.keys() == weights(classifier).keys()  # not even factorised


def test_another_attack_or_scheduler_is_refused(tmp_path):
    run(tmp_path, attack=Pgd(0.1, steps=1), objective="madry")
    with pytest.raises(ValueError, match=r'attack="Pgd\(eps=0.1.*asked is "Pgd\(eps=0.2'):
        run(tmp_path, attack=Pgd(0.2, steps=1), objective="madry")
    classifier = made()
    schedule = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1)
    with pytest.raises(ValueError, match="holds training with scheduler=None, asked is 'StepLR'"):
        run(tmp_path, classifier, {"scheduler": schedule}, attack=Pgd(0.1, steps=1), objective="madry")


def test_resume_false_begins_anew(tmp_path):
    whole, anew = made(), made()
    run(tmp_path, seed=1, fit={"nb_epochs": 2})
    trainer = run(tmp_path, anew, fit={"resume": False})
    run(None, whole)
    assert len(trainer.history) == 1
    assert equal(whole, anew)


def test_rates_and_shares_from_numpy_can_be_resumed(tmp_path):
    for epochs in (1, 2):
        trainer = run(tmp_path, made(lr=np.float64(1e-2)), {"nb_epochs": epochs}, keep=np.float64(0.5))
    assert len(trainer.history) == 2


def test_a_broken_loss_keeps_the_checkpoint(tmp_path):
    class Breaking(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, outputs, y):
            self.calls += 1
            return super().forward(outputs, y) * (float("nan") if self.calls == STEPS + 3 else 1.0)

    def broken(lr=1e-2):
        classifier = made(lr=lr)
        classifier._loss = Breaking()
        return classifier

    classifier = broken()
    with pytest.raises(Diverged, match=r"epoch 2, step 3.*lower the learning rate") as caught:
        run(tmp_path, classifier, {"nb_epochs": 2})
    assert "\n" not in str(caught.value)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert len(last["history"]) == 1
    assert all(torch.equal(value, last["model"][name]) for name, value in weights(classifier).items())
    with pytest.raises(ValueError, match="holds training with optimizer="):
        run(tmp_path, broken(lr=1e-3), {"nb_epochs": 2})
    assert len(run(tmp_path, broken(lr=1e-3), {"resume": False}).history) == 1
