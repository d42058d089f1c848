"""Normalisation as a part of the model, applied exactly once, so that budgets are counted in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn


class Normalised(nn.Module):
    """(scale x - mean) / std a channel, then the model."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = float(scale)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x * self.scale - self.mean) / self.std)
        return logits


def check_numbers(name: str, value: Any, whole: object) -> None:
    """None, a number, or one a channel; a divisor must not be zero."""
    given = value if isinstance(value, list) and name != "scale" else [value]
    if value is None:
        return
    if not given or not all(isinstance(item, Real) and not isinstance(item, bool) for item in given):
        raise ValueError(f"{whole}: {name} is {value!r}; give a number, or one a channel such as {name}=[0.5,0.5,0.5]")
    if name != "mean" and not all(item > 0 for item in given):
        raise ValueError(f"{whole}: {name} is {value!r}; give numbers > 0")
