"""Losses an attack climbs, one number an image; and which of them at which step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # logits (n, k), labels (n,) -> (n,)


def _split(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit (n,), and all logits with the label's own set to -inf (n, k)."""
    label = y.unsqueeze(1)
    return logits.gather(1, label).squeeze(1), logits.scatter(1, label, -torch.inf)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the label's: positive exactly where the image is misclassified."""
    own, others = _split(logits, y)
    return others.max(1).values - own


def smooth_margin(logits: Tensor, y: Tensor) -> Tensor:
    """logsumexp of the other logits minus the label's: the log-odds against the label.

    It is cross-entropy without the factor that makes cross-entropy vanish on confident images, and unlike the margin
    it does not commit to one wrong class at the first step.
    """
    own, others = _split(logits, y)
    return others.logsumexp(1) - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020): the margin over the gap between first and third logit."""
    if logits.shape[1] < 3:
        raise ValueError(f'loss="dlr" needs at least 3 classes, the model has {logits.shape[1]}; use loss="margin"')
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return cross_entropy(logits, y, reduction="none")


def towards(rivals: Tensor) -> Loss:
    """The margin towards one other class each: the rival's logit minus the label's."""

    def climbed(logits: Tensor, y: Tensor) -> Tensor:
        own, others = _split(logits, y)
        return others.gather(1, rivals.unsqueeze(1)).squeeze(1) - own

    return climbed


LOSSES: dict[str, Loss] = {"margin": margin, "smooth-margin": smooth_margin, "ce": ce, "dlr": dlr}
AUTO = "smooth-margin, margin"


def schedule(loss: str, steps: int) -> list[Loss]:
    """The loss of every step; AUTO is the smooth margin for the first half, then the margin, which decides success.

    An estimator climbs its own loss whatever it is handed, so there the entries only count the steps.
    """
    if loss == AUTO:
        return [smooth_margin if i < steps // 2 else margin for i in range(steps)]
    return [LOSSES.get(loss, ce)] * steps
