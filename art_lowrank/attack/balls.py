"""The image box, lengths, and how a perturbation is fitted between box and ball after the last rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Box: TypeAlias = "tuple[float | Tensor, float | Tensor] | None"
UNIT_BOX: Box = (0.0, 1.0)
ROUNDS = 10  # of `nearest`: float32 needs one, float16 two or three


def per_image(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1), to multiply images by."""
    return values.reshape(-1, 1, 1, 1)


def length(delta: Tensor) -> Tensor:
    """l2 norm of every image over all its channels, (n,)."""
    norm: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3))
    return norm


def placed(box: Box, x: Tensor) -> Box:
    """The box as two numbers, or as two tensors on the device and in the dtype of x."""
    if box is None:
        return None
    low, high = (torch.as_tensor(bound).to(x) for bound in box)
    return (float(low), float(high)) if low.numel() == high.numel() == 1 else (low, high)


def box_rows(box: Box, index: Tensor, n: int) -> Box:
    """The box of some of n images; bounds that are the same for all of them stay as they are."""
    return None if box is None else (_bound_rows(box[0], index, n), _bound_rows(box[1], index, n))


def _bound_rows(bound: float | Tensor, index: Tensor, n: int) -> float | Tensor:
    if not isinstance(bound, Tensor) or bound.ndim != 4 or len(bound) != n or n == 1:
        return bound
    return bound[index.to(bound.device)]


def clamp(x: Tensor, box: Box) -> Tensor:
    """x inside the box; x itself where there is none."""
    if box is None:
        return x
    low, high = box
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.maximum(torch.minimum(x, high), low)
    return x.clamp(low, high)  # type: ignore[arg-type]


def clamp_(x: Tensor, box: Box) -> Tensor:
    """The same in place, for a tensor that is nobody else's: a pass over fresh memory less."""
    if box is None or isinstance(box[0], Tensor) or isinstance(box[1], Tensor):
        return clamp(x, box)
    return x.clamp_(box[0], box[1])


def inward(gradient: Tensor, shown: Tensor, box: Box) -> Tensor:
    """The gradient of the clamped images: zero on pixels at or beyond a bound (one fused kernel for numbers)."""
    if box is None:
        return gradient
    low, high = box
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return gradient.masked_fill((shown <= low) | (shown >= high), 0.0)
    return torch.ops.aten.hardtanh_backward(gradient, shown, low, high)  # type: ignore[no-any-return]


def shrink(norm: Tensor, eps: Tensor) -> Tensor:
    """Factor that brings a perturbation of this norm into the ball of radius eps: min(1, eps / norm)."""
    return (eps / norm.clamp_min(1e-30)).clamp_max(1.0)


def excess_length(delta: Tensor, eps: Tensor) -> Tensor:
    """l2 norm of every perturbation in units of eps, (n,) in float64; NaN where both are zero."""
    distance: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), dtype=torch.float64)
    return distance / eps.double()


def nearest(
    x: Tensor, delta: Tensor, eps: Tensor, box: Box, excess: Callable[[Tensor, Tensor], Tensor] = excess_length
) -> tuple[Tensor, Tensor]:
    """x + delta in the box and in x's dtype, inside the ball *after* the last rounding; which images were shortened.

    Rounding to a half-precision grid can lengthen a perturbation by a percent, and the box can raise a nuclear norm; so
    the norm in units of eps (`excess`) is measured on the rounded image and the perturbation shortened until it fits;
    an image that cannot be fitted stays as it was.
    """
    wide = x.to(delta.dtype)
    shortened = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for k in range(ROUNDS):
        moved = clamp(wide + delta, box).to(x.dtype)
        ratio = excess(moved.to(delta.dtype) - wide, eps)
        over = ratio > 1 + 5e-7
        if not bool(over.any()):
            return moved, shortened
        shortened |= over
        scale = torch.where(over, 1 / ratio * (1 - 1e-6 * 4**k), 1.0)  # further each time: half precision is coarse
        delta = delta * per_image(scale).to(delta.dtype)
    return torch.where(per_image(over), x, moved), shortened
