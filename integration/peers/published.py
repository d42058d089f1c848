"""LoRa-PGD written from the paper's formulas with autograd (Savostianova, Zangrando, Tudisco, arXiv 2410.12607).

It is the other side of the update's timing, and an oracle for `method="paper"`, which has the same step in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

XI = 1e-10


def lora_pgd(
    x: Tensor, start_u: Tensor, start_v: Tensor, gradient: Callable[[Tensor], Tensor], eps: float, steps: int
) -> Tensor:
    """The last iterate after `steps` steps from the factors (n, c, h, r) and (n, c, r, w).

    `gradient` gives dLoss/dx_adv of images (n, c, h, w) in [0, 1]; its scale is of no account.
    """
    u, v = start_u, start_v
    for _ in range(steps):
        u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
        x_adv = attacked(x, u, v, eps)
        towards_u, towards_v = torch.autograd.grad(x_adv, (u, v), grad_outputs=gradient(x_adv.detach()))
        u, v = u + unit(towards_u), v + unit(towards_v)
    return attacked(x, u.detach(), v.detach(), eps)


def attacked(x: Tensor, u: Tensor, v: Tensor, eps: float) -> Tensor:
    """clamp(x + eps D / (|D| + xi)) with D = U V and its norm over all channels of an image."""
    product = torch.einsum("bcik,bckj->bcij", u, v)
    moved: Tensor = Clamp.apply(x + eps * product / (norm(product) + XI))
    return moved


def unit(direction: Tensor) -> Tensor:
    return direction / (norm(direction) + XI)


def norm(images: Tensor) -> Tensor:
    length: Tensor = images.flatten(1).norm(dim=1)
    return length.view(-1, 1, 1, 1)


class Clamp(torch.autograd.Function):
    """clamp to [0, 1] whose gradient is 1 also at the two bounds: torch changed its own there between versions."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        context.save_for_backward((images >= 0) & (images <= 1))
        return images.clamp(0, 1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (inside,) = context.saved_tensors
        inward: Tensor = gradients[0] * inside
        return inward
