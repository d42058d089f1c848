"""Data sets whose items say where they stand and how they were moved, for training from stored perturbations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from art_lowrank.training.moves import Moves, Size, is_size

NOWHERE = 1.0, 1e6  # a line on which nothing of the image is seen
MARK = -7.0  # on a chart, of a pixel that was there; borders are filled with other numbers
SEPARABLE = (  # torchvision's transforms that move rows and columns apart
    *("RandomCrop", "CenterCrop", "RandomResizedCrop", "Resize", "Pad"),
    *("RandomHorizontalFlip", "RandomVerticalFlip"),
)
STILL = (  # those that leave every pixel in its place
    *("ToTensor", "PILToTensor", "ToPILImage", "ToImage", "ToDtype", "ToPureTensor", "ConvertImageDtype", "Identity"),
    *("Normalize", "ColorJitter", "Grayscale", "RandomGrayscale", "RandomPhotometricDistort"),
    *("GaussianBlur", "GaussianNoise", "RandomErasing", "RandomInvert", "RandomPosterize", "RandomSolarize"),
    *("RandomAdjustSharpness", "RandomAutocontrast", "RandomChannelPermutation", "RandomEqualize", "RGB"),
)


class Indexed(Dataset[Any]):
    """The items (x, y) of a data set as (x, y, index), or with a transform of torchvision as (x, y, index, moves).

    transform   applied to x, whose flips, crops and resizes are written down; the data set's own must not move pixels
    frame       height and width in which perturbations are kept, for images of several sizes; None: that of the images

    Wrap a subset, `Indexed(Subset(dataset, rows))`, rather than take one: the indices count the items of this data set.
    """

    def __init__(self, dataset: Any, transform: Callable[[Any], Any] | None = None, frame: Size | None = None) -> None:
        """Check the transform, one by one."""
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise ValueError(f"the data set is a {type(dataset).__name__}; give one with a length and items (x, y)")
        if frame is not None and not is_size(frame):
            raise ValueError(f"frame is {frame!r}; give (height, width)")
        self.dataset, self.frame = dataset, frame
        self.transforms = None if transform is None else list(flattened(transform))

    @property
    def size(self) -> Size | None:
        """Height and width of what is stored, where that may differ from what is shown."""
        return None if self.transforms is None else self.frame or size_of(self.dataset[0][0])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        x, y = self.dataset[index]
        if self.transforms is None:
            return x, y, index
        size = size_of(x)
        shown, moves = recorded(self.transforms, x, size)
        if self.frame is not None and self.frame != size:
            moves = resized(self.frame, size).then(moves)
        return shown, y, index, Moves(moves.scale[0], moves.shift[0])


def flattened(transform: Any) -> Iterable[Any]:
    """The steps of a transform; one that does not move rows and columns apart is refused."""
    name = getattr(transform, "__qualname__", type(transform).__name__)
    if name in ("Compose", "Sequential"):
        for part in getattr(transform, "transforms", transform):
            yield from flattened(part)
    elif name in SEPARABLE or name in STILL:
        yield transform
    else:
        raise ValueError(
            f"{name} is not known to move rows and columns apart, as flips and crops do; stored perturbations cannot "
            "follow it: leave it out, or apply it to the images that come out of the attack"
        )


def recorded(transforms: Iterable[Any], image: Any, size: Size) -> tuple[Any, Moves]:
    """The transformed image, and its moves: what moves pixels is repeated, by the same chance, on a chart."""
    chart = _chart(size)
    for step in transforms:
        moving = type(step).__name__ in SEPARABLE
        if moving and isinstance(image, np.ndarray):
            raise ValueError(
                f"{type(step).__name__} met a NumPy array, which some leave as it is; begin with ToTensor()"
            )
        before = torch.get_rng_state()
        image = step(image)
        if moving:
            after = torch.get_rng_state()
            torch.set_rng_state(before)
            chart = _charting(step)(chart)
            torch.set_rng_state(after)
    inside = (chart[2] - MARK).abs() < 1e-3
    (rows, columns) = (_line(chart[k], inside, axis=k) for k in (0, 1))
    return image, Moves(*(torch.tensor([pair]) for pair in zip(rows, columns, strict=True)))


@lru_cache(maxsize=64)
def _chart(size: Size) -> Tensor:
    """Every pixel's row and column, and a mark."""
    return torch.stack([*torch.meshgrid(*map(torch.arange, size), indexing="ij"), torch.full(size, MARK)]).float()


def _charting(step: Any) -> Any:
    """The same step for a chart of three numbers: its borders of one, and places interpolated along straight lines."""
    found = copy.copy(step)
    if isinstance(getattr(found, "fill", None), list | tuple) and not hasattr(found, "_fill"):
        found.fill = 0
    if hasattr(found, "padding_mode"):
        found.padding_mode = "constant"  # mirrored borders are no pixels of the image
    if isinstance(getattr(found, "interpolation", None), Enum):
        found.interpolation = type(found.interpolation)("bilinear")
    if hasattr(found, "antialias"):
        found.antialias = False
    return found


def size_of(image: Any) -> Size:
    """Height and width of a tensor (c, h, w), an array (h, w, c) or a picture."""
    if isinstance(image, Tensor):
        return int(image.shape[-2]), int(image.shape[-1])
    if hasattr(image, "size") and isinstance(image.size, tuple):
        return int(image.size[1]), int(image.size[0])
    return int(image.shape[0]), int(image.shape[1])


def resized(stored: Size, shown: Size) -> Moves:
    """The move that shows what is stored at one size at another."""
    scale = torch.tensor([[a / b for a, b in zip(stored, shown, strict=True)]])
    return Moves(scale, (scale - 1) / 2)


def _line(chart: Tensor, inside: Tensor, axis: int) -> tuple[float, float]:
    """Scale and shift of the line that the chart's numbers follow along an axis, by what most neighbours say."""
    kept = inside.any(1 - axis)
    places = kept.nonzero().flatten().double()
    if not len(places):
        return NOWHERE
    values, far = chart.masked_fill(~inside, -torch.inf).amax(1 - axis)[kept].double(), len(places) // 2
    slopes = (values[far:] - values[:-far]) / (places[far:] - places[:-far]) if far else torch.ones(1)
    scale = float(slopes.median())
    return (scale, float((values - scale * places).median())) if scale else NOWHERE
