"""In place of RobustBench, which downloads its net and images: a small net trained on the spot, and digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from art_lowrank.demo.digits import Split, accuracy, digits, trained_net


@torch.enable_grad()  # the test loads its model without
def load_model(*names: Any, **settings: Any) -> nn.Module:
    return trained_net(digits()[0])


def load_cifar10(n_examples: int, **settings: Any) -> tuple[Tensor, Tensor]:
    test = digits()[1]
    return test.x[:n_examples], test.y[:n_examples]


def clean_accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return accuracy(model, Split(x, y))
