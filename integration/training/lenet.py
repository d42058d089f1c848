"""LeNet5 on MNIST: the net, and the split into images to train on, to tune on, and to report on."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from from_peers import zoo
from torch import Tensor, nn

TRAIN, NAMES = 8000, {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9"}


class Split(NamedTuple):
    """Images in [0, 1] and their class numbers."""

    x: Tensor
    y: Tensor


class Mnist(NamedTuple):
    """8,000 images to train on, 2,000 of the training file to tune on, 2,000 of the test file to report on."""

    train: Split
    validation: Split
    test: Split


@cache
def mnist() -> Mnist:
    x, y = zoo().images("mnist", "train", None)
    return Mnist(Split(x[:TRAIN], y[:TRAIN]), Split(x[TRAIN:], y[TRAIN:]), Split(*zoo().images("mnist", "test", None)))


def lenet5(seed: int) -> nn.Sequential:
    """431,080 parameters; the weights follow from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 20, 5), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(20, 50, 5), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(800, 500), nn.LeakyReLU(), nn.Linear(500, 10)),
        )
