"""Catastrophic overfitting: a net that withstands one long step and nothing else, as single-step training can end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from art_lowrank.training.adversaries import Logits, Pgd, SingleStep
from art_lowrank.training.measure import measured
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
    steps: int = 10,
) -> float:
    """Accuracy under one step of a radius minus that under `steps` gradients, on images that were not trained on."""
    single = measured(model, logits, x, y, SingleStep(eps, norm, 1.0, clip, start=0.0)).shares()["robust"]
    many = measured(model, logits, x, y, Pgd(eps, norm, steps, "full", clip)).shares()["robust"]
    return single - many


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
