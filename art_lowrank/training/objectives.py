"""What a step of training makes small: the loss on clean images, on adversarial ones, or TRADES' compromise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_lowrank.attack.oracle import evaluating, frozen
from art_lowrank.training.adversaries import Adversary, Logits
from art_lowrank.training.moves import Place
from art_lowrank.training.team import ALONE, Team, share_of, together
from art_lowrank.training.warm_start import Warm

OBJECTIVES = ("standard", "madry", "trades")


class Judged(NamedTuple):
    """The loss to be minimised, and how many images of the batch were right (under attack, where there is one)."""

    loss: Tensor
    right: Tensor


@dataclass(frozen=True)
class Objective:
    """One of `OBJECTIVES`. Examples are made in evaluation mode; TRADES' attack goes away from the label, as ART's."""

    name: str = "standard"
    adversary: Adversary | Warm | None = None
    beta: float = 6.0  # of TRADES: the weight of the divergence between clean and adversarial predictions
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __post_init__(self) -> None:
        """Names and needs, checked once."""
        if self.name not in OBJECTIVES:
            raise ValueError(f"objective is {self.name!r}; give one of {', '.join(map(repr, OBJECTIVES))}")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta is {self.beta!r}; give a finite weight of at least 0")
        if self.name == "standard" and self.adversary is not None:
            raise ValueError("objective='standard' trains on clean images; use 'madry' or 'trades' with an attack")
        if self.name != "standard" and self.adversary is None:
            raise ValueError(f"objective={self.name!r} needs an attack that makes its adversarial images")

    def __call__(self, model: nn.Module, logits: Logits, x: Tensor, y: Tensor, number: int) -> Judged:
        """The loss of a batch in training mode."""
        if self.adversary is None:
            return self._judged(logits(x), y)
        if isinstance(self.adversary, Warm):
            raise ValueError(
                "a warm start has to know where a batch's images stand; give them with Objective.at(place)"
            )
        with evaluating(model), frozen(model):
            attacked = self.adversary(logits, x, _classes(y), number)
        attacked = attacked if attacked.is_leaf else attacked.detach()  # a leaf may wait for its gradient
        if self.name == "madry":
            return self._judged(logits(attacked), y)
        clean, moved = logits(x), logits(attacked)
        apart = F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
        return Judged(self.loss(clean, y) + self.beta * apart, _right(moved, y))

    def at(self, place: Place | None) -> Objective:
        """The objective for the images at these places: another one only where the adversary asks for them."""
        moved = getattr(self.adversary, "at", None)
        return self if place is None or moved is None else replace(self, adversary=moved(place))

    @contextmanager
    def epoch(self, number: int, team: Team = ALONE) -> Iterator[None]:
        """The time of one epoch; what the adversary remembers of it counts if nothing is raised."""
        warm = self.adversary
        if not isinstance(warm, Warm):
            yield
            return
        together(team, lambda: warm.begin(number))
        yield
        together(team, warm.store.commit)

    def share(self, place: Place | None, n: int, team: Team) -> Tensor | None:
        """Which images of a batch are this process's: any, or those of which its store keeps perturbations."""
        if isinstance(self.adversary, Warm) and place is not None and team.size > 1:
            return (place.indices.cpu() % team.size == team.rank).nonzero().flatten()
        return share_of(team, n)

    def _judged(self, outputs: Tensor, y: Tensor) -> Judged:
        return Judged(self.loss(outputs, y), _right(outputs, y))


@torch.no_grad()
def _right(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs.argmax(1) == _classes(y)).sum()


def _classes(y: Tensor) -> Tensor:
    """Class numbers, also of labels that are one row of numbers an image."""
    return y if y.ndim == 1 else y.argmax(1)
