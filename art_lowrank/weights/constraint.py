"""`constrain`: cond(W) <= max_cond at once and after every step of any torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from art_lowrank.weights.handle import Handle, layers_in
from art_lowrank.weights.layers import FACTORS, LowRankLayer
from art_lowrank.weights.retraction import retracted

WORST = 1e6  # where the way down begins for a layer that has lost rank: float32 tells no more


class Constraint(Handle):
    """The factors are made orthonormal and the singular values clamped into a band after every step.

    The bound is CondLR's (arXiv 2306.01485, whose tau is max_cond - 1). Ours: a spectrum that is a vector instead of a
    matrix, plain Euclidean gradients, the nearest band instead of the one around the mean (so that a spectrum within
    the bound stays as it is), and signs that go into u instead of being lost.
    """

    def __init__(self, optimizer: Optimizer, layers: Mapping[str, LowRankLayer], max_cond: float, over: int) -> None:
        super().__init__(optimizer)
        self.max_cond, self.over, self.steps = max_cond, over, 0
        self._layers = dict(layers)
        self._first = {name: min(WORST, layer.cond()) for name, layer in layers.items()} if over else {}
        self.enforce()

    def after(self) -> None:
        self.steps += 1
        self.settle()

    def settle(self) -> None:
        """Retract every layer now; equal shapes together."""
        for name, layer in self._layers.items():
            layer.max_cond = self.bound(name)
        for alike in _alike(self._layers.values()):
            columns = [[getattr(layer, name) for layer in alike] for name in FACTORS]
            bounds = torch.tensor([layer.max_cond for layer in alike], dtype=torch.float64)
            u, s, v = (torch.stack(factors) for factors in columns)
            found = retracted(u, s, v, bounds)
            for factors, new in zip(columns, found, strict=True):
                torch._foreach_copy_(factors, list(new.unbind()))

    @property
    def ready(self) -> bool:  # type: ignore[override]
        """Whether the bound has come down."""
        return self.steps >= self.over

    def bound(self, name: str) -> float:
        """The present bound of a layer: max_cond, or on the way to it from where the layer began."""
        first = self._first.get(name, 0.0)
        if self.steps >= self.over or first <= self.max_cond:
            return self.max_cond
        return float(self.max_cond * (first / self.max_cond) ** (1 - self.steps / self.over))

    def cond(self) -> dict[str, float]:
        """The condition number of every layer, in float64."""
        return {name: layer.cond() for name, layer in self._layers.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "over": self.over, "first": dict(self._first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.over, self._first = int(state["steps"]), int(state["over"]), dict(state["first"])


def constrain(model: nn.Module, optimizer: Optimizer, *, max_cond: float = 1.5, over: int = 0) -> Constraint:
    """Hold every low-rank layer to cond(W) <= max_cond, measured in float64: now, and after every step.

    max_cond    at least 1; from 1.001 on the bound is exact, below it holds to rounding (about 1e-6); math.inf keeps
                the factors orthonormal and leaves the singular values alone
    over        steps over which the bound comes down from the present condition numbers, a constant factor a step; for
                pretrained nets, which lose most of their accuracy to a sudden clamp

    The bound is on the matrix of the layer's weight, for a convolution out x (in kh kw). It is about relative change
    and says nothing of layers that stay dense, of batch normalisation, or of robustness by itself.
    """
    check_max_cond(max_cond)
    if isinstance(over, bool) or not isinstance(over, int) or over < 0:
        raise ValueError(f"over is {over!r}; give the number of steps the bound takes to come down, 0 for at once")
    layers = layers_in(model, optimizer)
    return Constraint(optimizer, layers, float(max_cond), over)


def check_max_cond(max_cond: float) -> None:
    """A number of at least 1."""
    if isinstance(max_cond, bool) or not isinstance(max_cond, int | float) or not max_cond >= 1:
        raise ValueError(f"max_cond is {max_cond!r}; a condition number is at least 1, give for instance 1.5")


def _alike(layers: Any) -> list[list[LowRankLayer]]:
    """Layers whose factors can be stacked."""
    groups: dict[Any, list[LowRankLayer]] = {}
    for layer in layers:
        u, v = layer.weight_u, layer.weight_v
        groups.setdefault((u.shape, v.shape, u.device, u.dtype), []).append(layer)
    return list(groups.values())
