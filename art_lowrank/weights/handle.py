"""What training methods have in common: they hang on an optimizer's steps, so they work in anybody's training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from art_lowrank.weights.convert import low_rank_layers
from art_lowrank.weights.layers import FACTORS, LowRankLayer


class Handle:
    """A method at work: `before` is called before every step of the optimizer, `after` after it.

    Deepcopies and pickles of the optimizer do not carry it along; attach the method to them anew.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        pre: Callable[..., Any] = lambda *_: self.before()  # noqa: E731
        post: Callable[..., Any] = lambda *_: self.after()  # noqa: E731
        self._hooks = [optimizer.register_step_pre_hook(pre), optimizer.register_step_post_hook(post)]

    def before(self) -> None:
        """Gradients are there, the step is not yet taken."""

    def after(self) -> None:
        """The step is taken."""

    def enforce(self) -> None:
        """Bring the model into the form the method promises, at the end of an epoch or of training."""

    def notes(self) -> dict[str, Any]:
        """What is worth writing down after an epoch, plain values."""
        return {}

    def remove(self) -> None:
        """Let go of the optimizer; the model stays as it is."""
        for hook in self._hooks:
            hook.remove()

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
        for factor in FACTORS:
            parameter = getattr(layer, factor)
            if parameter.requires_grad and id(parameter) not in held:
                raise ValueError(
                    f"the optimizer does not hold {name}.{factor}; call factorize(model, optimizer=optimizer), "
                    "or make the optimizer after factorize"
                )
    return layers
