"""What is trained: its state, how it goes back to it, and what is known of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from art_lowrank.training.adversaries import Logits
from art_lowrank.training.checkpoint import State, load_weights
from art_lowrank.training.objectives import Objective
from art_lowrank.training.overfitting import Watch, careful
from art_lowrank.training.precision import FULL, Precision
from art_lowrank.training.team import ALONE, Team, first
from art_lowrank.weights import Handle, low_rank_layers, ranks_of

Epoch = dict[str, Any]  # what is known of one epoch, plain values


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the model is back at the end of the last good epoch."""


@dataclass(frozen=True)
class Learner:
    """What is trained, by what. `logits` is the model, or the model behind a host's preprocessing.

    A step is computed in `precision`; what is measured of the model is measured in its own.
    """

    model: nn.Module
    logits: Logits
    optimizer: Optimizer
    objective: Objective
    handles: Sequence[Handle] = ()
    scheduler: Any = None
    watch: Watch | None = None
    precision: Precision = FULL

    def after(self, history: Sequence[Epoch]) -> Learner:
        """What trains the next epoch: the same, or with two steps where the watch has seen reason to."""
        if self.watch is None or not self.watch.falls_back(history):
            return self
        return replace(self, objective=careful(self.objective))

    def watched(self, epochs: int, team: Team = ALONE) -> Epoch:
        """How far the net overfits to single steps after so many epochs, if somebody watches."""
        watch = self.watch
        return {} if watch is None else first(team, lambda: {"overfit": watch(self.model, self.logits, epochs)})

    def state(self) -> State:
        """Everything that changes in training, to be saved."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": settings_of(self.scheduler),
            "handles": [handle.state_dict() for handle in self.handles],
            "ranks": ranks_of(self.model),
            "precision": self.precision.state_dict(),
        }

    def load(self, state: State, source: object) -> None:
        """Back to where `state` was taken."""
        forget_bounds(self.model)
        load_weights(self.model, state["model"], source)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.load_handles(state["handles"])
        self.precision.load_state_dict(state.get("precision", {}))

    def load_handles(self, states: Sequence[dict[str, Any]]) -> None:
        """The methods back to where they were."""
        for handle, kept in zip(self.handles, states, strict=True):
            handle.load_state_dict(kept)


class Good(NamedTuple):
    """Weights and methods at the end of an epoch, kept in memory until the next one is done."""

    weights: dict[str, Tensor]
    handles: list[dict[str, Any]]

    @classmethod
    def of(cls, learner: Learner) -> Good:
        weights = {name: value.clone() for name, value in learner.model.state_dict().items()}
        return cls(weights, [handle.state_dict() for handle in learner.handles])

    def bring_back(self, learner: Learner) -> None:
        """The model as it was; the optimizer's moments, which may be NaN, are emptied."""
        forget_bounds(learner.model)
        load_weights(learner.model, self.weights, "the last good epoch")
        learner.model.eval()
        learner.optimizer.state.clear()
        learner.load_handles(self.handles)


def settings_of(scheduler: Any) -> dict[str, Any] | None:
    """A scheduler's state without the functions that some hold, which no checkpoint takes and loading keeps."""
    if scheduler is None:
        return None
    return {name: value for name, value in scheduler.state_dict().items() if not callable(value)}


def spectrum(learner: Learner) -> Epoch:
    """The worst condition number and the parameters' ranks after an epoch; effective ranks where weights are dense."""
    found: Epoch = {}
    layers = low_rank_layers(learner.model)
    if layers:
        found = {"cond": max(layer.cond() for layer in layers.values()), "ranks": ranks_of(learner.model)}
    for handle in learner.handles:
        found |= handle.notes()
    return found


def check_weights(model: nn.Module, epoch: int) -> None:
    """Weights that a last step broke would be seen by no loss of this epoch."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Diverged(
                f"{name} holds NaN or infinity after epoch {epoch + 1}; the model is back at the end of the "
                "last good epoch: lower the learning rate"
            )


def forget_bounds(model: nn.Module) -> None:
    """Take the bounds of what is loaded next as they are; by itself loading would only tighten them."""
    for layer in low_rank_layers(model).values():
        layer.max_cond = math.inf
