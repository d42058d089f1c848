"""Torch's own layers, made without drawing random numbers and filled with given weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Plain = TypeVar("Plain", nn.Linear, nn.Conv2d)


def empty_linear(columns: int, rows: int, bias: bool) -> nn.Linear:
    """A linear layer whose weights are still to come."""
    plain: nn.Linear = nn.utils.skip_init(nn.Linear, columns, rows, bias=bias)
    return plain


def empty_conv(columns: int, rows: int, *geometry: Any, **named: Any) -> nn.Conv2d:
    """A convolution whose weights are still to come."""
    plain: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, columns, rows, *geometry, **named)
    return plain


def product(u: Tensor, core: Tensor, v: Tensor) -> Tensor:
    """u core v^T, the core a matrix or its diagonal, in float64."""
    left = u.double() * core.double() if core.ndim == 1 else u.double() @ core.double()
    return left @ v.double().mT


def filled(plain: Plain, weight: Tensor, like: Tensor, bias: nn.Parameter | None = None) -> Plain:
    """The layer with these weights and this very bias, where `like` lies and of its type."""
    plain.to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        plain.weight.copy_(weight.reshape(plain.weight.shape))
    if bias is not None:
        plain.register_parameter("bias", bias)
    return plain
