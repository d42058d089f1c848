"""The balls a perturbation stays in: l2, l_inf, nuclear and group-nuclear, each over all channels of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from art_lowrank.attack.balls import Box, clamp, excess_length, length, nearest, per_image, shrink

STEPS_BACK = 3  # of one float each: how often a pixel beyond the l_inf ball after the last rounding is moved


class Ball(Protocol):
    """One norm. The radius `eps` is (n,); for l_inf it broadcasts to the images."""

    refills: bool  # whether what a mask takes away is given back to the rest of the image

    def excess(self, delta: Tensor, eps: Tensor) -> Tensor:
        """Norm of every perturbation in units of its radius, (n,) in float64; NaN where both are zero."""

    def along(self, gradient: Tensor, size: Tensor) -> Tensor:
        """The direction to step in; `size` is the gradient's l2 length (n,)."""

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        """The nearest perturbation of the ball."""

    def spread(self, noise: Tensor, eps: Tensor) -> Tensor:
        """A random perturbation at the edge of the ball."""

    def fit(self, x: Tensor, delta: Tensor, eps: Tensor, box: Box) -> tuple[Tensor, Tensor]:
        """x + delta in x's dtype, in box and ball after the last rounding; and which images had to be changed."""


@dataclass(frozen=True)
class L2:
    """The Euclidean ball."""

    refills = True

    def excess(self, delta: Tensor, eps: Tensor) -> Tensor:
        return excess_length(delta, eps)

    def along(self, gradient: Tensor, size: Tensor) -> Tensor:
        return gradient / per_image(size.clamp_min(1e-30))

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        return delta * per_image(shrink(length(delta), eps))

    def spread(self, noise: Tensor, eps: Tensor) -> Tensor:
        return noise * per_image(eps) / length(noise)

    def fit(self, x: Tensor, delta: Tensor, eps: Tensor, box: Box) -> tuple[Tensor, Tensor]:
        return nearest(x, delta, eps, box)


@dataclass(frozen=True)
class Linf:
    """Every pixel within its own radius."""

    refills = False

    def excess(self, delta: Tensor, eps: Tensor) -> Tensor:
        ratio = delta.double().abs() / eps.double()
        return ratio.nan_to_num(0.0, torch.inf).flatten(1).amax(1)

    def along(self, gradient: Tensor, size: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(delta, eps), -eps)

    def spread(self, noise: Tensor, eps: Tensor) -> Tensor:
        return noise.clamp(-1, 1) * eps

    def fit(self, x: Tensor, delta: Tensor, eps: Tensor, box: Box) -> tuple[Tensor, Tensor]:
        """A pixel that rounding has carried too far goes back float by float, in the end to where it was."""
        limit = eps.double() * (1 + 1e-6)
        moved = clamp(x.to(delta.dtype) + self.project(delta, eps), box).to(x.dtype)
        over = (moved.double() - x.double()).abs() > limit
        changed = over.flatten(1).any(1)
        for _ in range(STEPS_BACK if bool(changed.any()) else 0):
            moved = torch.where(over, torch.nextafter(moved, x), moved)
            over = (moved.double() - x.double()).abs() > limit
        return torch.where(over, x, moved), changed


class Matrices:
    """Norms that are a sum of singular values, of the matrices `split` cuts an image into."""

    refills = False

    def split(self, delta: Tensor) -> Tensor:
        """(n, c, h, w) as (n, matrices, rows, columns)."""
        return delta

    def join(self, matrices: Tensor, like: Tensor) -> Tensor:
        """The images that were split."""
        return matrices

    def excess(self, delta: Tensor, eps: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(self.split(delta).double())
        return values.flatten(1).sum(1) / eps.double()

    def along(self, gradient: Tensor, size: Tensor) -> Tensor:
        return gradient / per_image(size.clamp_min(1e-30))

    def project(self, delta: Tensor, eps: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(self.split(delta), full_matrices=False)
        return self.join(left @ (simplex(values, eps).unsqueeze(-1) * right), delta)

    def spread(self, noise: Tensor, eps: Tensor) -> Tensor:
        return noise / per_image(self.excess(noise, eps).to(noise))

    def fit(self, x: Tensor, delta: Tensor, eps: Tensor, box: Box) -> tuple[Tensor, Tensor]:
        return nearest(x, delta, eps, box, self.excess)


@dataclass(frozen=True)
class Nuclear(Matrices):
    """Sum of the singular values of every channel."""


@dataclass(frozen=True)
class GroupNuclear(Matrices):
    """Sum over square tiles of the singular values of the tile's channels stacked on top of each other."""

    tile: int

    def split(self, delta: Tensor) -> Tensor:
        return tiles(delta, self.tile)

    def join(self, matrices: Tensor, like: Tensor) -> Tensor:
        return untiled(matrices, like, self.tile)


def tiles(delta: Tensor, tile: int) -> Tensor:
    """(n, c, h, w) as (n, tiles, c * tile, tile); images are filled up with zeros at the right and below."""
    n, c, h, w = delta.shape
    rows, columns = -(-h // tile), -(-w // tile)
    filled = pad(delta, (0, columns * tile - w, 0, rows * tile - h))
    blocks = filled.view(n, c, rows, tile, columns, tile).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(n, rows * columns, c * tile, tile)


def untiled(blocks: Tensor, like: Tensor, tile: int) -> Tensor:
    """The images whose `tiles` these are."""
    n, c, h, w = like.shape
    rows, columns = -(-h // tile), -(-w // tile)
    filled = blocks.view(n, rows, columns, c, tile, tile).permute(0, 3, 1, 4, 2, 5)
    return filled.reshape(n, c, rows * tile, columns * tile)[..., :h, :w].contiguous()


def edges(eps: Tensor) -> tuple[Tensor, Tensor]:
    """A number a row (n, c, h, 1) and one a column: their products are at most eps, and eps itself if it is rank 1."""
    rows = eps.amax(-1, keepdim=True)
    columns = torch.where(rows > 0, eps / rows, torch.inf).amin(-2, keepdim=True)
    return rows, columns.nan_to_num(posinf=0.0)


def simplex(values: Tensor, eps: Tensor) -> Tensor:
    """Numbers >= 0, any shape an image, made smaller by one amount each image (not below 0) until their sum is eps.

    It is the projection on the l1 ball (Duchi et al. 2008); values whose sum is at most eps stay as they are.
    """
    flat = values.flatten(1)
    ordered = flat.sort(1, descending=True).values
    counts = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
    surplus = (ordered.cumsum(1) - eps.unsqueeze(1)) / counts
    last = (ordered > surplus).sum(1, keepdim=True).clamp_min(1) - 1
    cut = surplus.gather(1, last).clamp_min(0)
    return (flat - cut).clamp_min(0).view_as(values)
