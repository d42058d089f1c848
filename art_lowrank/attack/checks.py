"""Checks of single values: every bad one gets one line that quotes it and says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from art_lowrank.attack.balls import Box

LARGEST = 1e8  # radius or step: the first sketch multiplies four of them without orthonormalising, within float32
RANGE_TOLERANCE = 1e-4  # images may leave the box by this share of its width: the rounding of a normalisation undone


def is_whole(value: Any) -> bool:
    """A whole number of any kind, NumPy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_images(x: Tensor, box: Box) -> None:
    """Images are a floating (n, c, h, w) tensor of finite numbers inside the box."""
    if not isinstance(x, Tensor):
        raise TypeError(f"images are {type(x).__name__}; give a torch tensor (torch.as_tensor(images))")
    if x.ndim != 4:
        raise ValueError(f"images have shape {tuple(x.shape)}; give (n, channels, height, width)")
    if not x.is_floating_point():
        raise ValueError(f"images are {x.dtype}; give floats in the range of clip, such as images.float() / 255")
    if not x.numel():
        return
    low, high = x.detach().aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"{len(bad)} of {len(x)} images hold NaN or infinity (first at index {bad[0]}); mend or drop them"
        )
    if box is not None:
        _check_inside(x, float(low), float(high), box)


def check_labels(y: Tensor, n: int) -> None:
    """Labels are whole numbers, one an image. (That they are below the number of classes shows in the forward.)"""
    if not isinstance(y, Tensor):
        raise TypeError(f"labels are {type(y).__name__}; give a torch tensor of class numbers")
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels are {y.dtype} of shape {tuple(y.shape)}; give whole class numbers of shape ({n},)")
    if len(y) != n:
        raise ValueError(f"{len(y)} labels for {n} images; give one label an image")
    if n and int(y.min()) < 0:
        raise ValueError(f"label {int(y.min())} is negative; class numbers start at 0")


def amounts(name: str, value: Any, x: Tensor, dtype: torch.dtype, norm: str = "2") -> Tensor:
    """A radius or step length for every image, (n,): from one number, (n,), or anything broadcastable to the images.

    For norm "inf" it may differ from pixel to pixel and comes as (n, 1, 1, 1) or in the shape of the images.
    """
    given = torch.as_tensor(value, dtype=dtype, device=x.device)
    if given.ndim == 0 or given.shape == (len(x),):
        given = given.expand(len(x)).contiguous()
        return given.reshape(-1, 1, 1, 1) if norm == "inf" else given
    try:
        spread = given.broadcast_to(x.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} of shape {tuple(given.shape)} does not fit {len(x)} images; give one number or shape ({len(x)},)"
        ) from None
    if norm == "inf":
        return spread.contiguous()
    flat = spread.flatten(1)
    if flat.numel() and not bool((flat == flat[:, :1]).all()):
        raise ValueError(
            f"{name} differs inside an image; this ball takes one radius an image, shape ({len(x)},) (l_inf takes any)"
        )
    return flat[:, 0].contiguous()


def spread_mask(mask: Any, x: Tensor) -> Tensor:
    """Where the perturbation may be non-zero, (n, c, h, w) bool: from any mask that broadcasts to the images."""
    given = as_tensor(mask)
    if given is None or given.is_complex() or not bool((given >= 0).all()):
        raise ValueError("mask must hold numbers >= 0 or booleans, zero where nothing may change")
    try:
        return (given.to(x.device) != 0).expand(x.shape)
    except RuntimeError:
        raise ValueError(f"mask of shape {tuple(given.shape)} does not broadcast to images {tuple(x.shape)}") from None


def check_rectangle(mask: Tensor) -> None:
    """A mask (n, c, h, w) that keeps some rows and some columns of every channel, and so no rank can rise."""
    product = mask.any(-1, keepdim=True) & mask.any(-2, keepdim=True)
    odd = (mask != product).flatten(1).any(1)
    if bool(odd.any()):
        raise ValueError(
            f"mask of image {int(odd.nonzero()[0])} is no rectangle (some rows times some columns of each channel), so "
            "exact_rank=True cannot hold; give a rectangle or leave exact_rank out"
        )


def as_tensor(value: Any) -> Tensor | None:
    """The numbers as a tensor, None where they are none."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def quoted(value: Any) -> str:
    """A value for one line of a message: tensors, arrays and long values by their kind."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


@contextmanager
def in_words_of_host(**names: str) -> Iterator[None]:
    """Errors about the core's settings, under the names the host's user typed."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for ours, theirs in names.items():
            text = re.sub(rf"\b{ours}\b", theirs, text)
        raise type(error)(text) from None


def check_choice(name: str, value: Any, choices: Any, remark: str = "") -> None:
    """One of a few words."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is a {type(value).__name__}; choose one of {', '.join(map(repr, choices))}{remark}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}{remark}")


def check_rank(rank: Any) -> None:
    """A whole number, a share, or "full"."""
    whole = is_whole(rank) and rank >= 1
    share = isinstance(rank, float) and 0.0 < rank < 1.0
    if not (whole or share or (isinstance(rank, str) and rank == "full")):
        raise ValueError(
            f'rank is {quoted(rank)}; give a whole number >= 1, a share of min(height, width) in (0, 1), or "full"'
        )


def check_count(name: str, value: Any, least: int) -> None:
    """A whole number."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} is {quoted(value)}; give a whole number >= {least}")


def check_amount(name: str, value: Any, positive: bool = False) -> None:
    """A finite number that is not negative, or an array of such."""
    least = "a number > 0" if positive else "a number >= 0"
    given = None if isinstance(value, bool | str | complex) else as_tensor(value)
    if given is None or given.is_complex():
        raise ValueError(f"{name} is {quoted(value)}; give {least}, or one an image")
    bad = ~torch.isfinite(given) | (given <= 0 if positive else given < 0)
    if not bool(bad.any()) and bool((given > LARGEST).any()):
        raise ValueError(f"{name} reaches {float(given.max()):g}; give at most {LARGEST:g}, more overflows float32")
    if bool(bad.any()):
        where = f" holds {given[bad][0]:g}" if given.ndim else f" is {value!r}"
        raise ValueError(f"{name}{where}; give {least}, or one an image")


def check_clip(box: Any) -> None:
    """Two bounds in order, or None."""
    if box is None:
        return
    pair = [as_tensor(bound) for bound in box] if isinstance(box, tuple | list) and len(box) == 2 else [None]
    if any(bound is None or not bound.numel() for bound in pair):
        raise ValueError(f"clip is {quoted(box)}; give (lowest, highest) of the images, or None for no bounds")
    low, high = (bound.double() for bound in pair if bound is not None)
    try:
        ordered = bool((low < high).all())
    except RuntimeError:
        raise ValueError(f"clip bounds of shapes {tuple(low.shape)} and {tuple(high.shape)} do not match") from None
    if not ordered or not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
        raise ValueError(f"clip is {quoted(box)}; its lower bound must lie below its upper bound, both finite")


def _check_inside(x: Tensor, lowest: float, highest: float, box: Any) -> None:
    low, high = (torch.as_tensor(bound, device=x.device) for bound in box)
    try:
        low.expand(x.shape), high.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"clip bounds of shape {tuple(low.shape)} do not broadcast to images {tuple(x.shape)}"
        ) from None
    slack = RANGE_TOLERANCE * float((high - low).max())
    inside = lowest >= float(low.max()) - slack and highest <= float(high.min()) + slack
    if not inside and bool(((x < low - slack) | (x > high + slack)).any()):
        raise ValueError(
            f"images span [{lowest:.6g}, {highest:.6g}], outside the clip range [{float(low.min()):.6g}, "
            f"{float(high.max()):.6g}]; scale them into it, or set the range to theirs"
        )
