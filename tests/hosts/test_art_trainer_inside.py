"""Low-rank training inside ART's own trainers, and on ART's data generators."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerFBFPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_lowrank import LowRankTrainer
from art_lowrank.demo.digits import digits
from art_lowrank.training import SingleStep
from art_lowrank.weights import low_rank_layers

TRAIN = digits()[0]
X, Y = TRAIN.x[:160].numpy(), TRAIN.y[:160].numpy()


class Net(nn.Module):
    """ART's trainers want a root that is no Sequential."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.Linear(512, 24)
        self.last = nn.Linear(24, 10)

    def forward(self, x):
        return self.last(self.middle(self.first(x).relu().flatten(1)).relu())


def made(lr=1e-2, optimizer=torch.optim.SGD):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    with torch.no_grad():
        net.middle.weight.mul_(torch.logspace(0, -2, 24)[:, None])
    settings = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0.0, 1.0), "device_type": "cpu"}
    return PyTorchClassifier(net, loss=nn.CrossEntropyLoss(), optimizer=optimizer(net.parameters(), lr=lr), **settings)


def attack_on(classifier):
    return ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=2, verbose=False)


TRAINERS = {
    "adversarial": lambda c: AdversarialTrainer(c, FastGradientMethod(c, eps=0.1), ratio=0.5),
    "Madry": lambda c: AdversarialTrainerMadryPGD(c, nb_epochs=1, eps=0.1, eps_step=0.05, max_iter=2),
    "TRADES": lambda c: AdversarialTrainerTRADESPyTorch(c, attack_on(c), beta=3.0),
    "FBF": lambda c: AdversarialTrainerFBFPyTorch(c, eps=0.1),
    "AWP": lambda c: AdversarialTrainerAWPPyTorch(c, copy.deepcopy(c), attack_on(c), "PGD", 0.01, 1.0, 0),
    "AWP TRADES": lambda c: AdversarialTrainerAWPPyTorch(c, copy.deepcopy(c), attack_on(c), "TRADES", 0.01, 3.0, 0),
}


def conditions(classifier):
    """By numpy in float64, from the stored factors."""
    found = {}
    for name, layer in low_rank_layers(classifier.model).items():
        u, s, v = (getattr(layer, f"weight_{part}").detach().double().numpy() for part in "usv")
        values = np.linalg.svd(u * s @ v.T, compute_uv=False)[: layer.rank]
        found[name] = values[0] / values[-1]
    return found


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("labels", ["numbers", "rows"])
@pytest.mark.parametrize("name", TRAINERS)
def test_the_bound_holds_after_arts_trainer(name, labels):
    classifier = made()
    optimizer, before = classifier.optimizer, weights(classifier)
    y = Y if labels == "numbers" else np.eye(10, dtype=np.float32)[Y]
    trainer = LowRankTrainer(classifier, keep=0.5, max_cond=1.3, trainer=TRAINERS[name](classifier), verbose=False)
    trainer.fit(X, y, batch_size=64, nb_epochs=1)
    assert classifier.optimizer is optimizer
    found = conditions(classifier)
    assert "middle" in found
    assert max(found.values()) <= 1.3
    after = weights(classifier)
    assert all(bool(torch.isfinite(value).all()) for key, value in after.items() if "extra" not in key)
    assert not torch.equal(after["last.bias"], before["last.bias"])
    assert trainer.predict(X[:4]).shape == (4, 10)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_factors_are_trained(name):
    """Against the same net factorised and bounded, with a learning rate of almost nothing."""
    found = []
    for lr in (1e-9, 5e-2):
        classifier = made(lr=lr)
        trainer = LowRankTrainer(classifier, keep=0.5, trainer=TRAINERS[name](classifier), verbose=False)
        np.random.seed(0), torch.manual_seed(0)
        trainer.fit(X[:64], Y[:64], batch_size=32, nb_epochs=1)
        found.append(weights(classifier))
    if name == "FBF":  # it has its own learning rates, so both have moved: as far as from each other's start
        assert equal(*found)
        return
    for part in ("weight_u", "weight_s", "weight_v"):
        assert (found[0][f"middle.{part}"] - found[1][f"middle.{part}"]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["adversarial", "Madry", "TRADES", "AWP", "AWP TRADES"])
@pytest.mark.parametrize("kind", ["StepLR", "OneCycleLR", "SequentialLR"])
def test_a_scheduler_steps_once_an_epoch(name, kind):
    makers = {
        "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.01, total_steps=4),
        "SequentialLR": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
            [torch.optim.lr_scheduler.ConstantLR(o, 0.1, 2), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)]
        ),
    }
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule, rates = makers[kind](reference), []
    for _ in range(3):
        rates.append(reference.param_groups[0]["lr"])
        reference.step()
        schedule.step()
    classifier, seen = made(), []
    classifier.optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    trainer = LowRankTrainer(classifier, keep=0.5, trainer=TRAINERS[name](classifier), verbose=False)
    trainer.fit(X[:64], Y[:64], batch_size=32, nb_epochs=3, scheduler=makers[kind](classifier.optimizer))
    assert seen == pytest.approx([rate for rate in rates for _ in range(2)])
    assert classifier.optimizer.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"])


@pytest.mark.parametrize("name", TRAINERS)
def test_validation_data_with_labels_as_numbers(name):
    classifier = made()
    trainer = LowRankTrainer(classifier, keep=0.5, trainer=TRAINERS[name](classifier), verbose=False)
    trainer.fit(X[:64], Y[:64], batch_size=32, nb_epochs=1, validation_data=(X[64:96], Y[64:96]))
    assert max(conditions(classifier).values()) <= 1.5


@pytest.mark.parametrize("method", ["dlrt", "none", "nuclear"])
@pytest.mark.parametrize("name", ["adversarial", "TRADES", "FBF"])
def test_other_methods_inside_arts_trainers(name, method):
    classifier = made()
    trainer = LowRankTrainer(classifier, keep=0.5, method=method, trainer=TRAINERS[name](classifier), verbose=False)
    trainer.fit(X[:64], Y[:64], batch_size=16, nb_epochs=1)
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())
    assert all(layer.weight_s.ndim == 1 for layer in low_rank_layers(classifier.model).values())
    assert bool(low_rank_layers(classifier.model)) == (method != "nuclear")


def test_what_arts_trainers_cannot_is_refused(tmp_path):
    classifier = made()
    for options in ({"attack": SingleStep(0.1), "objective": "madry"}, {"objective": "trades"}):
        with pytest.raises(ValueError, match="AdversarialTrainer has its own attack and objective"):
            LowRankTrainer(classifier, trainer=TRAINERS["adversarial"](classifier), **options)
    trainer = LowRankTrainer(classifier, keep=0.5, trainer=TRAINERS["FBF"](classifier), verbose=False)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer)
    for options, message in (
        ({"checkpoint": tmp_path}, "leave checkpoint and patience out"),
        ({"patience": 2, "validation_data": (X, Y)}, "leave checkpoint and patience out"),
        ({"scheduler": torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1)}, "own learning rates"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.fit(X, Y, nb_epochs=1, **options)
    with pytest.raises(ValueError, match="call it on the trainer you gave"):
        trainer.fit_generator(NumpyDataGenerator(X, Y, batch_size=32))
    for name in ("adversarial", "TRADES"):
        trainer = LowRankTrainer(classifier, keep=0.5, trainer=TRAINERS[name](classifier), verbose=False)
        with pytest.raises(ValueError, match="ReduceLROnPlateau"):
            trainer.fit(X, Y, nb_epochs=1, scheduler=plateau)


def test_ranks_that_change_are_refused_where_a_proxy_needs_them_fixed():
    """AWP adds differences of the proxy's weights to the classifier's in the middle of a cycle."""
    classifier = made()
    with pytest.raises(ValueError, match="dlrt") as caught:
        LowRankTrainer(classifier, keep=0.5, method="dlrt", trainer=TRAINERS["AWP"](classifier), verbose=False)
    assert "\n" not in str(caught.value)


def loader(n, **options):
    data = TensorDataset(torch.from_numpy(X[:n]), torch.from_numpy(Y[:n]))
    return DataLoader(data, batch_size=32, shuffle=True, **options)


GENERATORS = {
    "numpy": lambda: NumpyDataGenerator(X, np.eye(10, dtype=np.float32)[Y], batch_size=32, shuffle=True),
    "numpy, uneven": lambda: NumpyDataGenerator(X[:150], Y[:150], batch_size=32, shuffle=True),
    "numpy, with the rest": lambda: NumpyDataGenerator(X[:150], Y[:150], 32, drop_remainder=False, shuffle=True),
    "torch": lambda: PyTorchDataGenerator(loader(160), 160, 32),
    "torch, uneven": lambda: PyTorchDataGenerator(loader(150, drop_last=True), 150, 32),
}


def from_generator(name, epochs=3, folder=None, **options):
    classifier = made(optimizer=torch.optim.Adam)
    trainer = LowRankTrainer(classifier, keep=0.5, verbose=False, **options)
    trainer.fit_generator(GENERATORS[name](), epochs, validation_data=(X[:20], Y[:20]), checkpoint=folder)
    return classifier, trainer


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_train(name):
    classifier, trainer = from_generator(name, 8)
    assert (classifier.predict(X).argmax(1) == Y).mean() > 0.5
    assert max(conditions(classifier).values()) <= 1.5
    assert len(trainer.history) == 8


@pytest.mark.parametrize("ranks", [None, "energy"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_follow_from_the_seed(name, ranks):
    found = []
    for number in (1, 2):
        torch.manual_seed(number), np.random.seed(number)
        generator, classifier = GENERATORS[name](), made()
        before = torch.get_rng_state(), np.random.get_state()  # making a torch loader's iterator draws a number
        trainer = LowRankTrainer(classifier, keep=0.5, ranks=ranks, verbose=False)
        trainer.fit_generator(generator, 2)
        assert torch.equal(before[0], torch.get_rng_state())
        assert all(np.array_equal(a, b) for a, b in zip(before[1], np.random.get_state(), strict=True))
        found.append(weights(classifier))
    assert equal(*found)


@pytest.mark.parametrize("ranks", [None, "energy"])
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_go_on_after_a_stop(name, ranks, tmp_path):
    whole, _ = from_generator(name, 3, ranks=ranks)
    from_generator(name, 1, tmp_path, ranks=ranks)
    torch.manual_seed(99), np.random.seed(99)
    rest, trainer = from_generator(name, 3, tmp_path, ranks=ranks)
    assert len(trainer.history) == 3
    assert equal(weights(whole), weights(rest))


@pytest.mark.parametrize("name", GENERATORS)
def test_an_epoch_of_a_generator_is_one_pass(name):
    """Every image at most once, and all of them where the generator drops none; also after a look at the ranks."""
    seen = []

    def attack(logits, x, y, number):
        seen.extend(image.numpy().tobytes() for image in x)
        return x

    classifier = made()
    trainer = LowRankTrainer(classifier, keep=0.5, attack=attack, objective="madry", verbose=False)
    trainer.fit_generator(GENERATORS[name](), 1)
    assert len(seen) == {"numpy, uneven": 128, "torch, uneven": 128, "numpy, with the rest": 150}.get(name, 160)
    assert len(set(seen)) == len(seen)


def test_bad_generators_are_refused():
    trainer = LowRankTrainer(made(), keep=0.5, verbose=False)
    generator = NumpyDataGenerator(X, Y, batch_size=32)
    for epochs in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"nb_epochs is {epochs}"):
            trainer.fit_generator(generator, epochs)
    generator._size = None
    with pytest.raises(ValueError, match="size is None"):
        trainer.fit_generator(generator)
