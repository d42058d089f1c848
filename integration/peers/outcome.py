"""What counts, the same for every attack: the net's answer on the images returned, never the attack's own claim."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SLACK = 1e-5  # rounding of float32 norms, as a share of eps


class Outcome(NamedTuple):
    broken: Tensor  # (n,) bool; an image the net gets wrong without any attack counts as broken
    distance: float  # the largest l2 distance to the clean image


@torch.no_grad()
def judge(model: nn.Module, x: Tensor, y: Tensor, attacked: Tensor, eps: float) -> Outcome:
    """Which images are broken; an image outside [0, 1] or the ball is an error, whoever made it."""
    if attacked.shape != x.shape or attacked.dtype != x.dtype:
        raise ValueError(f"the attack returned {attacked.dtype} {tuple(attacked.shape)} for {x.dtype} {tuple(x.shape)}")
    low, high = (float(bound) for bound in attacked.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the attacked images span [{low:.9g}, {high:.9g}], outside [0, 1]")
    distance = float((attacked.double() - x.double()).flatten(1).norm(dim=1).max())
    if distance > eps * (1 + SLACK):
        raise ValueError(f"an attacked image lies {distance:.9g} from its clean image, more than eps = {eps}")
    return Outcome(model(attacked).argmax(1) != y, distance)
