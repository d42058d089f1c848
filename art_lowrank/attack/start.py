"""What a search works on, and where its randomness comes from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.balls import Box


class Problem(NamedTuple):
    """The images still under attack; every tensor has one row an image."""

    x: Tensor  # (n, c, h, w), float32 or wider
    y: Tensor
    eps: Tensor  # (n,)
    step_size: Tensor | None  # (n,), or the schedule
    mask: Tensor | None  # (n, c, h, w) of 0 and 1
    box: Box

    def rows(self, index: Tensor) -> Problem:
        """The problem of some of the images."""
        step_size, mask = (None if value is None else value[index] for value in (self.step_size, self.mask))
        return Problem(self.x[index], self.y[index], self.eps[index], step_size, mask, self.box)


def gaussian(shape: tuple[int, ...], seed: int, draw: int, like: Tensor) -> Tensor:
    """Standard normal numbers that depend on (seed, draw, shape) alone: not on batch, place, device or global state."""
    generator = torch.Generator("cpu").manual_seed((seed * 1_000_003 + draw) % 2**63)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(like)
