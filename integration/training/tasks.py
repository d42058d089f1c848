"""The trainings that are measured: a net, its images, how long, against what, and who takes part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import contenders
import finetune
from contenders import Contender
from lenet import Parts, mnist

from art_lowrank.training.objectives import Objective


@dataclass(frozen=True)
class Task:
    """What all contenders share."""

    name: str
    contenders: Sequence[Contender]
    rates: Sequence[float]
    data: Callable[[], Parts]
    tuned_on: str
    tested_on: str
    ball: str
    eps: float
    epochs: int
    batch: int
    objective: Objective
    norm: float = math.inf


TASKS = {
    "lenet5": Task(
        name="lenet5",
        contenders=contenders.CONTENDERS,
        rates=contenders.RATES,
        data=mnist,
        tuned_on="mnist_train[8000:10000]",
        tested_on="mnist_test[:2000]",
        ball="linf eps=0.1",
        eps=0.1,
        epochs=8,
        batch=100,
        objective=Objective(),
    ),
    "resnet4b": Task(
        name=finetune.NET,
        contenders=finetune.CONTENDERS,
        rates=finetune.RATES,
        data=finetune.cifar10,
        tuned_on="cifar10_train[7000:8000]",
        tested_on="cifar10_test[:3000]",
        ball="linf eps=2/255",
        eps=2 / 255,
        epochs=finetune.EPOCHS,
        batch=finetune.BATCH,
        objective=finetune.OBJECTIVE,
    ),
}
