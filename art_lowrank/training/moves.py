"""How images were flipped, cropped and resized, so that stored perturbations can be moved with them, and back.

All three act on rows and columns apart. On factors they therefore act on `left` and on `right`, at the price of a few
thin rows; flips and crops do so exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.checks import is_whole
from art_lowrank.attack.factors import Factors

Size = tuple[int, int]


def is_size(given: object) -> bool:
    """Whether this is a height and a width."""
    return isinstance(given, tuple | list) and len(given) == 2 and all(is_whole(side) and side > 0 for side in given)


class Moves(NamedTuple):
    """Row i of a moved image shows row `scale[:, 0] * i + shift[:, 0]` of the image as it is stored; columns alike.

    scale (n, 2) and shift (n, 2) hold numbers for rows and columns: -1 and h - 1 turn an image upside down, 1 and 3 cut
    off the first three rows, 1 and -3 put three empty ones before them.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def none(cls, n: int) -> Moves:
        """Images that stay as they are."""
        return cls(torch.ones(n, 2), torch.zeros(n, 2))

    @classmethod
    def random(cls, n: int, size: Size, generator: torch.Generator, padding: int = 4, flip: bool = True) -> Moves:
        """The usual augmentation of small images: crops from images with a border, half of them mirrored."""
        shift = torch.randint(-padding, padding + 1, (n, 2), generator=generator).float()
        mirrored = (torch.rand(n, generator=generator) < 0.5) & flip
        scale = torch.ones(n, 2)
        scale[mirrored, 1] = -1
        shift[mirrored, 1] += size[1] - 1
        return cls(scale, shift)

    def rows(self, index: Tensor) -> Moves:
        """The moves of some of the images."""
        return Moves(self.scale[index], self.shift[index])

    def then(self, later: Moves) -> Moves:
        """These moves and others after them, as one."""
        return Moves(self.scale * later.scale, self.scale * later.shift + self.shift)

    def inverse(self) -> Moves:
        """Back to how images are stored; what had left the frame is not brought back."""
        return Moves(1 / self.scale, -self.shift / self.scale)

    def images(self, x: Tensor, size: Size) -> Tensor:
        """Images (n, c, h, w), moved, of this size; zero where there was nothing."""
        rows, columns = self._places(x, size)
        return _taken(_taken(x, rows, 2), columns, 3)

    def factors(self, factors: Factors, size: Size) -> Factors:
        """Factors whose product is the product's image under these moves."""
        rows, columns = self._places(factors.left, size)
        return Factors(_taken(factors.left, rows, 2), _taken(factors.right, columns, 3))

    def _places(self, like: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """For every row and column shown where it comes from, (n, h) and (n, w)."""
        scale, shift = self.scale.to(like.device), self.shift.to(like.device)
        steps = (torch.arange(length, device=like.device) for length in size)
        rows, columns = (scale[:, k : k + 1] * step + shift[:, k : k + 1] for k, step in enumerate(steps))
        return rows, columns


class Place(NamedTuple):
    """Where the images of a batch stand in the data set, and how they were moved since.

    done    how many images of the epoch all processes have had with this batch; None where nobody counts
    """

    indices: Tensor
    moves: Moves | None = None
    done: int | None = None

    def rows(self, index: Tensor) -> Place:
        """The place of some of the images."""
        moves = None if self.moves is None else self.moves.rows(index)
        return self._replace(indices=self.indices[index], moves=moves)


def _taken(values: Tensor, places: Tensor, axis: int) -> Tensor:
    """The slices of `values` at these places along an axis, interpolated between two where a place lies between."""
    whole = places.floor()
    part = places - whole
    found = _picked(values, whole.long(), axis)
    if not bool(part.any()):
        return found
    share = part.to(values.dtype).view(_along(part, axis, values.ndim))
    return torch.lerp(found, _picked(values, whole.long() + 1, axis), share)


def _picked(values: Tensor, index: Tensor, axis: int) -> Tensor:
    """The slices at whole places, each image its own; zero outside."""
    inside = (index >= 0) & (index < values.shape[axis])
    shape = list(values.shape)
    shape[axis] = index.shape[1]
    view = _along(index, axis, values.ndim)
    found = values.gather(axis, index.clamp(0, values.shape[axis] - 1).view(view).expand(shape))
    return found if bool(inside.all()) else found * inside.view(view)


def _along(index: Tensor, axis: int, ndim: int) -> list[int]:
    """The shape in which (n, length) lies along an axis."""
    shape = [1] * ndim
    shape[0], shape[axis] = index.shape
    return shape
