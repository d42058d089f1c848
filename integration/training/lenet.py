"""LeNet5 on MNIST: the net, and the split into images to train on, to tune on, and to report on."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from borrowed import zoo
from torch import Tensor, nn

TRAIN = 8000


class Split(NamedTuple):
    """Images in [0, 1] and their class numbers."""

    x: Tensor
    y: Tensor


class Parts(NamedTuple):
    """Images to train on, others of the training file to tune on, those of the test file to report on."""

    train: Split
    validation: Split
    test: Split


@cache
def parts(name: str, train: int) -> Parts:
    """The data set with its first `train` training images to train on, the others to tune on."""
    x, y = zoo().images(name, "train", None)
    test = Split(*zoo().images(name, "test", None))
    return Parts(Split(x[:train], y[:train]), Split(x[train:], y[train:]), test)


def mnist() -> Parts:
    """8,000 to train on, 2,000 to tune on, 2,000 to report on."""
    return parts("mnist", TRAIN)


def lenet5(seed: int) -> nn.Sequential:
    """431,080 parameters; the weights follow from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 20, 5), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(20, 50, 5), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(800, 500), nn.LeakyReLU(), nn.Linear(500, 10)),
        )
