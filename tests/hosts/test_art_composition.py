"""The attack inside ART's own trainers and its AutoAttack."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from torch import nn

from art_lowrank import LowRankPGD
from art_lowrank.demo.digits import digits


class Wrapped(nn.Module):
    """ART's trainers want a root that is no Sequential."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def training(digits_net, make_classifier):
    """A classifier to be trained further, its attack, and 256 training digits."""
    classifier = make_classifier(Wrapped(copy.deepcopy(digits_net)))
    for group in classifier.optimizer.param_groups:
        group["lr"] = 0.05
    train = digits()[0]
    attack = LowRankPGD(classifier, eps=0.5, rank=2, max_iter=4, verbose=False)
    return classifier, attack, train.x[:256].numpy(), np.eye(10, dtype=np.float32)[train.y[:256].numpy()]


def robust_accuracy(classifier, x, y):
    adversarial = LowRankPGD(classifier, eps=0.5, rank=2, verbose=False).generate(x, y)
    return (classifier.predict(adversarial).argmax(1) == y.argmax(1)).mean()


def trainers(name, classifier, attack):
    if name == "adversarial":
        return AdversarialTrainer(classifier, attack, ratio=1.0)
    if name == "madry":
        trainer = AdversarialTrainerMadryPGD(classifier, nb_epochs=1)
        trainer.trainer = AdversarialTrainer(classifier, attack, ratio=1.0)
        return trainer
    if name == "trades":
        return AdversarialTrainerTRADESPyTorch(classifier, attack, beta=3.0)
    proxy = copy.deepcopy(classifier)
    return AdversarialTrainerAWPPyTorch(classifier, proxy, attack, mode="PGD", gamma=0.01, beta=1.0, warmup=0)


@pytest.mark.parametrize("name", ["adversarial", "madry", "trades", "awp"])
def test_trains_and_hardens(training, name):
    classifier, attack, x, y = training
    before = robust_accuracy(classifier, x, y)
    torch.manual_seed(0)
    np.random.seed(0)
    trainers(name, classifier, attack).fit(x, y, nb_epochs=4, batch_size=64)
    assert robust_accuracy(classifier, x, y) > before + 0.1


def test_inside_autoattack(classifier, arrays):
    pytest.importorskip("multiprocess")
    x, y = arrays
    ours = LowRankPGD(classifier, eps=0.6, eps_step=0.1, rank=4, verbose=False)
    theirs = AutoProjectedGradientDescent(
        classifier,
        norm=2,
        eps=0.6,
        eps_step=0.1,
        max_iter=5,
        nb_random_init=1,
        verbose=False,
        loss_type="cross_entropy",
    )
    for targeted in (False, True):
        union = AutoAttack(classifier, norm=2, eps=0.6, eps_step=0.1, attacks=[ours, theirs], targeted=targeted)
        adversarial = union.generate(x, y)
        accuracy = (classifier.predict(adversarial).argmax(1) == y).mean()
        alone = (
            classifier.predict(LowRankPGD(classifier, eps=0.6, rank=4, verbose=False).generate(x, y)).argmax(1) == y
        ).mean()
        assert accuracy <= alone + 1e-9
        assert np.linalg.norm((adversarial - x).reshape(len(x), -1), axis=1).max() <= 0.6 * (1 + 1e-4)
