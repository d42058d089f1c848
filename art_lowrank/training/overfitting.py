"""Catastrophic overfitting: a net that withstands one long step and nothing else, as single-step training can end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from art_lowrank.attack.checks import check_images, check_labels
from art_lowrank.training.adversaries import Logits, Pgd, boxed, direction, loss_gradient
from art_lowrank.training.measure import measured
from art_lowrank.training.objectives import Objective
from art_lowrank.training.warm_start import Warm


def overfitting(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: float | str = 2,
    clip: tuple[float, float] | None = (0.0, 1.0),
    logits: Logits | None = None,
) -> float:
    """Accuracy under one step of a whole radius (FGSM) less that under ten gradients of `lowrank_pgd` at full rank.

    Take images that were not trained on. 0.1 or 0.2 is usual; above 0.4 the net has learnt to deceive single steps.
    `logits` is what maps images to logits where that is more than the model, such as a host's preprocessing.
    """
    check_images(x, clip)
    check_labels(y, len(x))
    if not len(x):
        raise ValueError("there are no images; give some that were not trained on")
    answers = model if logits is None else logits
    one, ten = (
        measured(model, answers, x, y, attack) for attack in (Fgsm(eps, norm, clip), Pgd(eps, norm, 10, clip=clip))
    )
    return one.shares()["robust"] - ten.shares()["robust"]


@dataclass(frozen=True)
class Fgsm:
    """One step of a radius from the image itself."""

    eps: float
    norm: float | str
    clip: tuple[float, float] | None

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        return boxed(x + self.eps * direction(loss_gradient(logits, x, y), self.norm), self.clip)


@dataclass(frozen=True)
class Watch:
    """Measures after every epoch how far a net overfits, at the radius it was trained with, and warns."""

    x: Tensor
    y: Tensor
    eps: float
    norm: float | str = 2
    clip: tuple[float, float] | None = (0.0, 1.0)
    limit: float = 0.4
    fall_back: bool = False
    ramp: float = 0.0  # epochs over which the radius rises

    def __call__(self, model: nn.Module, logits: Logits, epochs: int) -> float:
        """FGSM minus PGD accuracy on the images after so many epochs; a warning where it is beyond the limit."""
        eps = self.eps * min(1.0, epochs / self.ramp) if self.ramp else self.eps
        gap = overfitting(model, self.x, self.y, eps=eps, norm=self.norm, clip=self.clip, logits=logits)
        if gap > self.limit:
            remedy = "two steps are taken from here on" if self.fall_back else "take two steps or a shorter one"
            more = f"{100 * gap:.0f} points more (limit {100 * self.limit:.0f}) of {len(self.x)} images"
            warnings.warn(
                f"catastrophic overfitting: {more} withstand one step than ten gradients; {remedy}",
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
