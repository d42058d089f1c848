"""Catastrophic overfitting: a net that withstands one long step and nothing else, as single-step training can end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from art_lowrank.attack.oracle import evaluating
from art_lowrank.training.adversaries import Logits, boxed, direction, inside, loss_gradient
from art_lowrank.training.measure import right
from art_lowrank.training.objectives import Objective
from art_lowrank.training.warm_start import Warm


def overfitting(
    model: nn.Module,
    logits: Logits,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: float | str = 2,
    clip: tuple[float, float] | None = (0.0, 1.0),
) -> float:
    """The share of images that withstand one step of a radius less those that withstand ten of a quarter.

    Take images that were not trained on. Near 0 is good; above 0.3 the net has learnt to deceive single steps.
    """
    place = next(model.parameters()).device
    x, y = x.to(place), y.to(place)
    with evaluating(model):
        one, ten = (withstood(logits, x, y, eps, norm, clip, *course) for course in ((1, 1.0), (10, 0.25)))
    return float(one.double().mean() - ten.double().mean())


def withstood(
    logits: Logits,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: float | str,
    clip: tuple[float, float] | None,
    steps: int,
    length: float,
) -> Tensor:
    """Which images are right before, and after every one of some gradient steps, whose length is in radii."""
    delta, holds = torch.zeros_like(x), right(logits, x, y)
    for _ in range(steps):
        gradient = loss_gradient(logits, boxed(x + eps * delta, clip), y)
        delta = inside(delta + length * direction(gradient, norm), norm)
        holds &= right(logits, boxed(x + eps * delta, clip), y)
    return holds


@dataclass(frozen=True)
class Watch:
    """Measures after every epoch how far a net overfits, and warns."""

    x: Tensor
    y: Tensor
    eps: float
    norm: float | str = 2
    clip: tuple[float, float] | None = (0.0, 1.0)
    limit: float = 0.3
    fall_back: bool = False

    def __call__(self, model: nn.Module, logits: Logits) -> float:
        """FGSM minus PGD accuracy on the images; a warning where it is beyond the limit."""
        gap = overfitting(model, logits, self.x, self.y, self.eps, self.norm, self.clip)
        if gap > self.limit:
            remedy = "two steps are taken from here on" if self.fall_back else "take two steps or a shorter one"
            more = f"{100 * gap:.0f} points more (limit {100 * self.limit:.0f}) of {len(self.x)} images"
            warnings.warn(
                f"catastrophic overfitting: {more} withstand one step than ten; {remedy}",
                stacklevel=2,
            )
        return gap

    def falls_back(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether some epoch gave reason to take two steps, and that is wanted."""
        return self.fall_back and any(epoch.get("overfit", 0.0) > self.limit for epoch in history)


def careful(objective: Objective) -> Objective:
    """The same with two steps of the stored perturbations at least."""
    warm = objective.adversary
    if not isinstance(warm, Warm) or warm.settings.steps >= 2:
        return objective
    return replace(objective, adversary=replace(warm, settings=replace(warm.settings, steps=2)))
