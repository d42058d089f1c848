"""What an attack is allowed: a norm and a radius, measured on what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from art_lowrank.record import JSON

if TYPE_CHECKING:  # a report knows threats and needs no torch
    from torch import Tensor

NAMES = {"1": "L1", "2": "L2", "inf": "Linf", "nuc": "nuc", "group-nuc": "group-nuc"}
NUMBERS = {"L1": 1.0, "L2": 2.0, "Linf": math.inf}
ROUNDING, SLACK = 1e-6, 1e-5  # of a pixel, and of a norm in float32 as a share of eps


@dataclass(frozen=True)
class Threat:
    """A ball around every image, inside [0, 1]."""

    norm: str  # "L1", "L2", "Linf", "nuc" or "group-nuc"
    eps: float
    tile: int | None = None  # of "group-nuc"

    def __str__(self) -> str:
        return f"{self.norm} {number(self.eps)}" + (f" tile {self.tile}" if self.tile else "")

    def meaning(self) -> list[JSON]:
        """What goes into the identity of a cell: attacks with the same one are compared."""
        return [self.norm, self.eps, self.tile]

    def distances(self, x: Tensor, moved: Tensor) -> Tensor:
        """How far every image was moved, (n,) float64."""
        import torch

        from art_lowrank.attack.norms import GroupNuclear, Nuclear
        from art_lowrank.attack.searches import TILES

        delta = moved.double() - x.double()
        if self.norm in NUMBERS:
            found: Tensor = torch.linalg.vector_norm(delta.flatten(1), NUMBERS[self.norm], dim=1)
            return found
        tile = self.tile or max(1, min(x.shape[2:]) // TILES)
        ball = Nuclear() if self.norm == "nuc" else GroupNuclear(tile)
        return ball.excess(delta, torch.ones(len(delta), device=delta.device))

    def allows(self, x: Tensor, moved: Tensor, distances: Tensor | None = None) -> Tensor:
        """Which images are finite, inside [0, 1] and inside the ball, up to rounding."""
        distances = self.distances(x, moved) if distances is None else distances
        flat = moved.flatten(1)
        low, high = flat.amin(1), flat.amax(1)  # NaN where there is one
        inside = (low >= -ROUNDING) & (high <= 1 + ROUNDING)
        return inside & (distances <= self.eps * (1 + SLACK) + ROUNDING)


def threat_of(norm: Any, eps: Any, whole: object) -> Threat:
    """A norm in any of the hosts' spellings, and a radius."""
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        raise ValueError(f"{whole}: eps is {eps!r}; give one radius >= 0 such as 0.5 or 8/255")
    return Threat(norm_name(norm, whole), float(eps))


def norm_name(norm: Any, whole: object) -> str:
    """`2`, `L2`, `l2`, `inf`, `Linf`, `l_inf`, `nuc` ... by the one name that records carry."""
    text = str(norm).lower().replace("_", "").removeprefix("l").replace("infinity", "inf")
    text = text.removesuffix(".0")
    if text not in NAMES:
        raise ValueError(f"{whole}: norm is {norm!r}; choose 2, inf, 1, nuc or group-nuc")
    return NAMES[text]


def number(value: float) -> str:
    """A radius as people write it: 0.5, 8/255."""
    of_255 = value * 255
    if abs(of_255 - round(of_255)) < 1e-9 and 0 < round(of_255) < 128 and len(f"{value:g}") > 5:
        return f"{round(of_255)}/255"
    return f"{value:.6g}"
