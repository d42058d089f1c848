"""`LowRankTrainer(warm_start=...)`: on arrays, generators and loaders, watched over, and refused in one line."""

from __future__ import annotations

import copy
import shutil
import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniL2Method, ProjectedGradientDescent
from art.data_generators import DataGenerator, PyTorchDataGenerator
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_lowrank import LowRankPGD, LowRankTrainer
from art_lowrank.demo.digits import digits
from art_lowrank.training import Indexed, Pgd, WarmStart
from art_lowrank.weights import low_rank_layers

TRAIN, TEST = digits()
X, Y = TRAIN.x[:160].numpy(), TRAIN.y[:160].numpy()
HELD = {"validation_data": (TEST.x[:40].numpy(), TEST.y[:40].numpy())}


def made(net=None, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = net or nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)
        )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    settings = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0.0, 1.0), "device_type": "cpu"}
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), optimizer=optimizer, **{**settings, **options})


def trainer_of(classifier=None, attack=None, **options):
    settings = {"objective": "madry", "warm_start": True, "keep": 0.5, "fresh": True, "verbose": False}
    return LowRankTrainer(classifier or made(), attack=attack or Pgd(0.5, steps=10), **{**settings, **options})


def counting(classifier):
    """How many batches the net is asked for gradients of images, and of weights."""
    asked = {"images": 0, "weights": 0}

    def forward(module, inputs):
        if inputs[0].requires_grad:
            asked["images"] += 1
        elif torch.is_grad_enabled() and module.training:
            asked["weights"] += 1

    classifier.model[0].register_forward_pre_hook(forward)
    return asked


@pytest.mark.parametrize(("method", "keep"), [("condlr", 0.5), ("none", 1.0)])
def test_low_rank_and_dense_nets_withstand_more_than_before_for_one_gradient(method, keep):
    classifier = made()
    trainer = trainer_of(classifier, method=method, keep=keep)
    x, y = TRAIN.x.numpy(), TRAIN.y.numpy()
    asked = counting(classifier) if keep == 1 else None
    trainer.fit(x, y, nb_epochs=8, **HELD)
    assert trainer.history[-1]["robust"] > 0.45 > 0.25 > trainer.history[0]["robust"] - 0.2
    assert bool(low_rank_layers(classifier.model)) == (method == "condlr")
    if asked is not None:
        batches = 8 * -(-len(x) // 128)
        watched = 8 * (1 + 10)  # the net is watched after every epoch
        validated = 8 * 10  # by the attack that was given
        assert asked["weights"] == batches
        assert asked["images"] == batches + watched + validated


def test_without_validation_data_a_twentieth_watches_and_is_not_trained_on():
    seen = set()

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def forward(self, x):
            if self.training:
                seen.update(round(float(row.sum()), 1) for row in x.detach())
            return self.net(x)

    x = np.arange(160, dtype=np.float32).reshape(160, 1, 1, 1) / 10 * np.ones((1, 1, 8, 8), np.float32)
    trainer = trainer_of(made(Spy(), clip_values=(0.0, 16.0)), Pgd(1e-4, clip=(0.0, 16.0)), method="nuclear")
    trainer.fit(x, Y, nb_epochs=2, batch_size=32)
    assert len({round(value / 6.4) for value in seen}) == 160 - 8
    assert all("overfit" in epoch for epoch in trainer.history)


def loader(shuffle=False, **options):
    return DataLoader(Indexed(TensorDataset(TRAIN.x[:160], TRAIN.y[:160])), 32, shuffle=shuffle, **options)


class OwnGenerator(DataGenerator):
    """The batches of a loader, as arrays."""

    def __init__(self):
        super().__init__(size=160, batch_size=32)
        self.batches = [tuple(np.asarray(part) for part in batch) for batch in loader()]
        self.next = 0

    def get_batch(self):
        self.next += 1
        return self.batches[(self.next - 1) % len(self.batches)]


def test_loaders_and_generators_train_the_same_net():
    found = []
    own = OwnGenerator()
    own.next = -1  # a first look takes a batch that such a generator does not give again
    for source in (loader(), PyTorchDataGenerator(loader(), 160, 32), own):
        classifier = made()
        trainer = trainer_of(classifier, fresh=False)
        trainer.fit_generator(source, 3, **HELD)
        assert trainer.history[-1]["overfit"] < 0.5
        found.append(classifier.model.state_dict())
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_a_loader_with_moving_images_is_resumed_exactly(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")

    def run(folder, epochs):
        data = Indexed(
            TensorDataset(TRAIN.x[:160], TRAIN.y[:160]),
            transforms.Compose([transforms.RandomCrop(8, 1), transforms.RandomHorizontalFlip()]),
        )
        classifier = made()
        trainer = trainer_of(classifier)
        trainer.fit_generator(DataLoader(data, 32, shuffle=True), epochs, checkpoint=folder, **HELD)
        return classifier.model.state_dict()

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 4)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_perturbations_are_kept_in_the_size_of_images_before_they_are_cropped(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    data = Indexed(TensorDataset(TRAIN.x[:160], TRAIN.y[:160]), transforms.RandomCrop(6))
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 10))
    for source in (DataLoader(data, 32), PyTorchDataGenerator(DataLoader(data, 32), 160, 32)):
        trainer = trainer_of(made(copy.deepcopy(net), input_shape=(1, 6, 6)))
        trainer.fit_generator(source, 2, checkpoint=tmp_path, resume=False)
        header = (tmp_path / "perturbations" / "epoch-000002.perturbations").read_bytes()[:400]
        assert b'"shape": [1, 8, 8]' in header


def test_falling_back_needs_somebody_who_watches():
    with pytest.raises(
        ValueError, match="fall_back=True needs images to watch over the training; give validation_data"
    ):
        trainer_of(warm_start=WarmStart(fall_back=True)).fit_generator(loader(), 1)


def test_a_lost_file_of_perturbations_is_one_line_and_anew_works(tmp_path):
    trainer_of().fit(X, Y, nb_epochs=2, checkpoint=tmp_path)
    folder = tmp_path / "perturbations"
    assert [file.name for file in sorted(folder.iterdir())] == [
        "epoch-000001.perturbations",
        "epoch-000002.perturbations",
    ]
    (folder / "epoch-000002.perturbations").unlink()
    with pytest.raises(ValueError, match=r"epoch-000002\.perturbations is missing, the folder holds epochs \[1\]"):
        trainer_of().fit(X, Y, nb_epochs=3, checkpoint=tmp_path)
    shutil.rmtree(folder)
    with pytest.warns(
        UserWarning, match=r"epoch-000002\.perturbations is missing; attacks of epoch 3 start from noise"
    ):
        trainer_of().fit(X, Y, nb_epochs=3, checkpoint=tmp_path)
    trainer_of().fit(X, Y, nb_epochs=1, checkpoint=tmp_path, resume=False)


def test_perturbations_of_other_images_are_not_taken(tmp_path):
    settings = WarmStart(path=tmp_path)
    trainer_of(warm_start=settings).fit(X, Y, nb_epochs=1)
    with pytest.raises(ValueError, match=r"holds perturbations with data '.*give another folder, or delete it"):
        trainer_of(warm_start=settings).fit(1 - X, Y, nb_epochs=1)
    trainer_of(warm_start=settings).fit(1 - X, Y, nb_epochs=1, resume=False)  # deletes them
    trainer_of(warm_start=settings, attack=Pgd(0.5)).fit(1 - X, Y, nb_epochs=1)
    with pytest.raises(ValueError, match="holds perturbations with unit 'l2 radius', asked is 'linf radius'"):
        trainer_of(attack=Pgd(0.1, "inf"), warm_start=settings).fit(1 - X, Y, nb_epochs=1)


@pytest.mark.parametrize(
    ("attack", "eps", "norm"),
    [
        (lambda c: ProjectedGradientDescent(c, eps=0.2, norm=np.inf, verbose=False), 0.2, np.inf),
        (lambda c: ProjectedGradientDescent(c, eps=1, norm=2, verbose=False), 1.0, 2),
        (lambda c: LowRankPGD(c, eps=0.7, rank=2, verbose=False), 0.7, 2),
    ],
)
def test_the_ball_is_that_of_the_attack(attack, eps, norm):
    classifier = made()
    trainer = trainer_of(classifier, attack(classifier), method="nuclear")
    seen = []
    classifier.model[0].register_forward_pre_hook(
        lambda layer, x: seen.append(x[0].detach()) if layer.training else None
    )
    trainer.fit(X, Y, nb_epochs=1, batch_size=160)
    clean = torch.from_numpy(X)
    away = torch.cdist(seen[0].flatten(1), clean.flatten(1), p=float(norm)).amin(1)
    assert away.max() <= eps * (1 + 1e-4)
    assert away.max() > 0.3 * eps


def test_catastrophic_overfitting_is_called_out_and_answered():
    """One step twice as long as the ball, from a store that forgets after every epoch, invites it."""
    with pytest.warns(UserWarning, match="catastrophic overfitting: "):
        trainer_of(warm_start=WarmStart(limit=-1.0)).fit(X, Y, nb_epochs=1)
    classifier = made()
    asked = counting(classifier)
    trainer = trainer_of(classifier, method="nuclear", warm_start=WarmStart(limit=-1.0, fall_back=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(X, Y, nb_epochs=3, batch_size=152)
    assert asked["images"] == 1 + 2 + 2 + 3 * 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "standard", "attack": None}, "warm_start=True needs an attack whose ball it works in"),
        ({"warm_start": 1.5, "attack": Pgd(0.5)}, "warm_start is 1.5; give True, False or"),
        ({"attack": lambda *a: a[1]}, r"takes eps and norm \(2 or inf\) from the attack"),
        ({"attack": Pgd(0.5, "nuc")}, "norm is 'nuc'"),
        ({"attack": CarliniL2Method}, r"takes eps and norm \(2 or inf\) from the attack"),
        ({"attack": None, "objective": "standard", "trainer": AdversarialTrainerMadryPGD}, "makes its own adversarial"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options, message):
    classifier = made()
    made_of = {name: value(classifier) if isinstance(value, type) else value for name, value in options.items()}
    settings = {"objective": "madry", "warm_start": True, "keep": 0.5, "verbose": False}
    with pytest.raises(ValueError, match=message) as caught:
        LowRankTrainer(classifier, **{**settings, **made_of})
    assert "\n" not in str(caught.value)


def test_rows_that_are_no_images_are_refused():
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with pytest.raises(ValueError, match=r"samples of shape \(64,\) are no images"):
        trainer_of(made(net, input_shape=(64,))).fit(X.reshape(160, 64), Y, nb_epochs=1)


def test_loaders_without_indices_are_refused_with_the_way_out():
    plain = DataLoader(TensorDataset(TRAIN.x[:160], TRAIN.y[:160]), 32)
    with pytest.raises(ValueError, match=r"a batch is 2 parts.*wrap the data set, art_lowrank.training.Indexed"):
        trainer_of().fit_generator(plain, 1)
    with pytest.raises(ValueError, match="indices run from 96 to 127; the store has 100 images"):
        trainer_of().fit_generator(PyTorchDataGenerator(loader(), 100, 32), 1)
    with pytest.raises(ValueError, match="the generator is a list; give a DataGenerator of ART or a DataLoader"):
        trainer_of().fit_generator([(X, Y)], 1)


def test_a_loader_trains_without_a_warm_start_as_well():
    classifier = made()
    trainer = LowRankTrainer(classifier, keep=0.5, verbose=False)
    trainer.fit_generator(DataLoader(TensorDataset(TRAIN.x[:160], TRAIN.y[:160]), 32), 1)
    assert len(trainer.history) == 1
