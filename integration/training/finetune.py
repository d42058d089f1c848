"""Fine-tuning a robust CIFAR-10 ResNet after truncation, by adversarial training: who takes part."""

from __future__ import annotations

import math
from typing import Any

from borrowed import net
from contenders import LOOK, Built, of
from lenet import Parts, parts
from torch import nn
from torch.optim import SGD

from art_lowrank.training.adversaries import Pgd
from art_lowrank.training.methods import attach
from art_lowrank.training.objectives import Objective
from art_lowrank.weights import factorize

NET, TRAIN, EPOCHS, BATCH = "cifar10_resnet4b_linf_adv", 7000, 4, 100
RATES = (0.01, 0.02, 0.04)
OBJECTIVE = Objective("madry", Pgd(2 / 255, "inf", steps=3))


def cifar10() -> Parts:
    """7,000 images to train on, 1,000 to tune on, 3,000 to report on."""
    return parts("cifar10", TRAIN)


def dense(seed: int, lr: float) -> Built:
    model = trained()
    return model, SGD(model.parameters(), lr, 0.9), []


def low_rank(seed: int, lr: float, keep: float, method: str, tighten: float = 0.0, **options: Any) -> Built:
    """Truncated at the ranks that activations ask for, then one of the package's methods."""
    model = factorize(trained(), keep=keep, data=cifar10().train.x[:LOOK])
    optimizer = SGD(model.parameters(), lr, 0.9)
    over = {"over": round(tighten * EPOCHS * TRAIN / BATCH)} if tighten else {}
    return model, optimizer, attach(method, model, optimizer, {**options, **over})


def trained() -> nn.Module:
    """The pretrained net, to be trained on."""
    return net(NET).requires_grad_(True)


CONTENDERS = (
    of("dense", 1, dense),
    of("condlr 1.5, tightened", 0.5, low_rank, method="condlr", max_cond=1.5, tighten=0.5),
    of("condlr 1.5, at once", 0.5, low_rank, method="condlr", max_cond=1.5),
    of("orthonormal, no clamp", 0.5, low_rank, method="condlr", max_cond=math.inf),
    of("truncated, no method", 0.5, low_rank, method="none"),
)
