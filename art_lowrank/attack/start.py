"""What a search works on, and where its randomness comes from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.balls import Box, box_rows, placed
from art_lowrank.attack.checks import amounts, check_rectangle, spread_mask
from art_lowrank.attack.norms import L2, Ball, edges
from art_lowrank.attack.options import Options


class Problem(NamedTuple):
    """The images still under attack; every tensor has one row an image."""

    x: Tensor  # (n, c, h, w), float32 or wider
    y: Tensor
    eps: Tensor  # (n,); for l_inf (n, 1, 1, 1) to (n, c, h, w)
    step_size: Tensor | None  # of the same shape, or None for the schedule
    mask: Tensor | None  # (n, c, h, w) of 0 and 1
    box: Box
    ball: Ball = L2()

    def rows(self, index: Tensor) -> Problem:
        """The problem of some of the images."""
        step_size, mask = (None if value is None else value[index] for value in (self.step_size, self.mask))
        box = box_rows(self.box, index, len(self.x))
        return self._replace(
            x=self.x[index], y=self.y[index], eps=self.eps[index], step_size=step_size, mask=mask, box=box
        )


def posed(x: Tensor, y: Tensor, options: Options, ball: Ball) -> Problem:
    """The caller's tensors in float32 or wider, every setting spread over the images."""
    wide = torch.promote_types(x.dtype, torch.float32)
    eps = amounts("eps", options.eps, x, wide, options.ball)
    step_size = None if options.step_size is None else amounts("step_size", options.step_size, x, wide, options.ball)
    mask = None if options.mask is None else spread_mask(options.mask, x)
    if options.ball == "inf":
        eps = _below_rounding(eps, x.to(wide))
        eps, mask = _without_holes(eps, mask) if eps.numel() else (eps, mask)
    if options.exact_rank and mask is not None:
        check_rectangle(mask)
    y = y.to(x.device) if y.is_floating_point() else y.to(x.device, torch.long)
    x = x.to(wide).contiguous()
    return Problem(x, y, eps, step_size, None if mask is None else mask.to(wide), placed(options.clip, x), ball)


def _below_rounding(eps: Tensor, x: Tensor) -> Tensor:
    """The radius less the rounding of images plus perturbations, so that it holds for what is returned."""
    if not x.numel():
        return eps
    reach = x.abs().amax((1, 2, 3), keepdim=True) + eps
    return (eps - torch.finfo(x.dtype).eps * reach).clamp_min(0)


def _without_holes(eps: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Zeros of the radius in every row or in every column, which would leave low-rank factors nothing, as a mask."""
    rows, columns = edges(eps)
    void = ((rows * columns).amax((2, 3), keepdim=True) == 0) & (eps.amax((2, 3), keepdim=True) > 0)
    if not bool(void.any()):
        return eps, mask
    kept = (eps > 0) | ~void
    return torch.where(kept, eps, eps.amax((2, 3), keepdim=True)), kept if mask is None else mask & kept


def gaussian(shape: tuple[int, ...], seed: int, draw: int, like: Tensor) -> Tensor:
    """Standard normal numbers that depend on (seed, draw, shape) alone: not on batch, place, device or global state."""
    generator = torch.Generator("cpu").manual_seed((seed * 1_000_003 + draw) % 2**63)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(like)
