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
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, x.shape[1]):
                raise ValueError(f"{name} has {len(numbers)} numbers for images of {x.shape[1]} channels")
        logits: Tensor = self.model((x * self.scale - self.mean) / self.std)
        return logits


class Typed(nn.Module):
    """A model in another precision, given its own kind of numbers; gradients come back in the images' kind."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.to(self.dtype))
        return logits.float()


def typed(model: nn.Module) -> nn.Module:
    """The model, behind a conversion where its weights are not float32."""
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return Typed(model, *kinds) if len(kinds) == 1 and kinds != {torch.float32} else model


def check_numbers(name: str, value: Any, whole: object) -> None:
    """None, a number, or one a channel; a divisor must not be zero."""
    given = value if isinstance(value, list) and name != "scale" else [value]
    if value is None:
        return
    if not given or not all(isinstance(item, Real) and not isinstance(item, bool) for item in given):
        raise ValueError(f"{whole}: {name} is {value!r}; give a number, or one a channel such as {name}=[0.5,0.5,0.5]")
    if name != "mean" and not all(item > 0 for item in given):
        raise ValueError(f"{whole}: {name} is {value!r}; give numbers > 0")
