"""What training methods have in common: they hang on an optimizer's steps, so they work in anybody's training loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from art_lowrank.weights.convert import low_rank_layers
from art_lowrank.weights.layers import FACTORS, LowRankLayer


class Handle:
    """A method at work: `before` is called before every step of the optimizer, `after` after it, in full precision.

    Deepcopies and pickles of the optimizer do not carry it along; attach the method to them anew.
    """

    needs_gradients = False  # before the step: a closure would make them too late
    ready = True  # whether the model is what was asked for, not only on its way there

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._hooks = [
            optimizer.register_step_pre_hook(lambda _, given, named: self._start(*given[1:], **named)),
            optimizer.register_step_post_hook(lambda *_: self._end()),
        ]

    def before(self) -> None:
        """Gradients are there, the step is not yet taken."""

    def after(self) -> None:
        """The step is taken."""

    def settle(self) -> None:
        """What `enforce` does, called without gradients and in full precision."""

    def enforce(self) -> None:
        """Bring the model into the form the method promises, now: at the end of an epoch or of training."""
        with self._exact():
            self.settle()

    def notes(self) -> dict[str, Any]:
        """What is worth writing down after an epoch, plain values."""
        return {}

    def remove(self) -> None:
        """Let go of the optimizer; the model stays as it is."""
        for hook in self._hooks:
            hook.remove()

    def _start(self, closure: object = None, **_: object) -> None:
        if closure is not None and self.needs_gradients:
            raise ValueError("this method works on gradients before the step, so it takes an optimizer without closure")
        with self._exact():
            self.before()

    def _end(self) -> None:
        with self._exact():
            self.after()

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """No gradients and no autocast: bases and singular values need all their digits."""
        device = next(p for group in self.optimizer.param_groups for p in group["params"]).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield

    def state_dict(self) -> dict[str, Any]:
        """What the method has to know to go on where it was, beside model and optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in what `state_dict` gave."""


def layers_in(model: nn.Module, optimizer: Optimizer) -> dict[str, LowRankLayer]:
    """The low-rank layers, after a check that the optimizer holds every factor that is to be trained."""
    layers = low_rank_layers(model)
    if not layers:
        raise ValueError("the model has no low-rank layer; call factorize(model, ...) first")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, layer in layers.items():
        check_precision(name, layer.weight_u)
        for factor in FACTORS:
            parameter = getattr(layer, factor)
            if parameter.requires_grad and id(parameter) not in held:
                raise ValueError(
                    f"the optimizer does not hold {name}.{factor}; call factorize(model, optimizer=optimizer), "
                    "or make the optimizer after factorize"
                )
    return layers


def check_precision(name: str, weight: Tensor) -> None:
    """Half precision holds neither orthonormal columns nor small thresholds."""
    if weight.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} has parameters of {weight.dtype}, too coarse for this; "
            "keep them in float32 and train under torch.autocast"
        )
