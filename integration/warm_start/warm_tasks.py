"""The trainings that are compared: a net, its images, the ball, how long, and which rates are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from shared_parts import Parts, net, parts
from torch import nn
from torch.optim import SGD, Adam, Optimizer

MNIST_NET, CIFAR_NET = "CNN of 166,406 parameters", "cifar10_resnet3b_linf_adv"


@dataclass(frozen=True)
class Task:
    """What all contenders share. The radius rises from 0 over the first `ramp` of all epochs."""

    name: str
    model: str
    build: Callable[[int], nn.Module]
    data: Callable[[], Parts]
    norm: int | str
    eps: float
    epochs: int
    rates: tuple[float, ...]
    optimizer: Callable[[nn.Module, float], Optimizer]
    ramp: float = 0.3
    padding: int = 0  # of the border from which images are cropped
    flip: bool = False
    batch: int = 100


def small(seed: int) -> nn.Sequential:
    """Two strided convolutions and two linear layers for MNIST."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10)),
        )


def pretrained(seed: int) -> nn.Module:
    """A ResNet that others trained adversarially at 4/255, to be trained on; it starts the same with every seed."""
    return net(CIFAR_NET).requires_grad_(True)


def adam(model: nn.Module, rate: float) -> Optimizer:
    return Adam(model.parameters(), rate)


def sgd(model: nn.Module, rate: float) -> Optimizer:
    return SGD(model.parameters(), rate, 0.9)


def mnist() -> Parts:
    """8,000 images to train on, 2,000 to tune on, 2,000 to report on."""
    return parts("mnist", 8000)


def cifar10() -> Parts:
    """7,000 images to train on, 1,000 to tune on, 3,000 to report on."""
    return parts("cifar10", 7000)


def on_mnist(name: str, norm: int | str, eps: float, padding: int = 0) -> Task:
    rates = (0.002, 0.004, 0.008, 0.016, 0.032)
    return Task(name, MNIST_NET, small, mnist, norm, eps, 8, rates, adam, padding=padding)


def on_cifar(name: str, norm: int | str, eps: float) -> Task:
    rates = (0.005, 0.01, 0.02, 0.04)
    return Task(name, CIFAR_NET, pretrained, cifar10, norm, eps, 10, rates, sgd, 0.0, 4, True)


TASKS = {
    task.name: task
    for task in (
        on_mnist("mnist l2 2.0", 2, 2.0),
        on_mnist("mnist linf 0.3", "inf", 0.3),
        on_mnist("mnist linf 0.3, shifted", "inf", 0.3, 4),
        on_cifar("cifar10 linf 8/255", "inf", 8 / 255),
        on_cifar("cifar10 linf 16/255", "inf", 16 / 255),
    )
}
