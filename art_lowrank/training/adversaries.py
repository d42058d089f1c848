"""What makes adversarial examples during training: any callable from (logits, x, y, step number) to images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from art_lowrank.attack.checks import check_images
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import ModelOracle

Logits = Callable[[Tensor], Tensor]
TINY = 1e-12


class Adversary(Protocol):
    """Adversarial images for a batch; `number` counts the steps of training and takes the place of a seed."""

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor: ...


@dataclass(frozen=True)
class Pgd:
    """`lowrank_pgd` as the inner attack: rank "full" is PGD with this package's schedule.

    Images whose gradient is zero are trained on as they are, without the warning that an evaluation gives.
    """

    eps: float
    norm: float | str = 2
    steps: int = 7
    rank: int | float | str = "full"
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse impossible settings now."""
        self._options(0)

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        images = x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)  # what is no image is one row
        options = self._options(number)
        check_images(images, options.clip)
        found = run(ModelOracle(lambda moved: logits(moved.reshape(len(moved), *x.shape[1:]))), images, y, options)
        return found.x.reshape(x.shape)

    def _options(self, seed: int) -> Options:
        return Options(
            eps=self.eps, norm=self.norm, steps=self.steps, rank=self.rank, clip=self.clip, seed=seed, loss="auto"
        )


@dataclass(frozen=True)
class SingleStep:
    """One gradient from a random start, a step of `length` radii, back into the ball: "fast" adversarial training.

    After arXiv 2001.03994 for l_inf; the l2 form is ours.
    """

    eps: float
    norm: float | str = "inf"
    length: float = 1.25
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse impossible settings now."""
        is_linf(self.norm)
        for name in ("eps", "length"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a finite number of at least 0")

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        images = boxed(x + self.eps * noise(x, self.norm, number), self.clip)
        delta = images - x + self.length * self.eps * direction(loss_gradient(logits, images, y), self.norm)
        return boxed(x + self.eps * inside(delta / max(self.eps, TINY), self.norm), self.clip)


def loss_gradient(logits: Logits, images: Tensor, y: Tensor) -> Tensor:
    """The gradient of the images' cross-entropy."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        return torch.autograd.grad(cross_entropy(logits(images), y, reduction="sum"), images)[0]


def noise(x: Tensor, norm: float | str, number: int) -> Tensor:
    """A random perturbation of radius 1: uniform for l_inf, on the sphere for l2."""
    found = torch.rand(x.shape, generator=torch.Generator().manual_seed(number)).to(x) * 2 - 1
    return found if is_linf(norm) else found / lengths(found)


def direction(gradient: Tensor, norm: float | str) -> Tensor:
    """The step of radius 1 that climbs most."""
    return gradient.sign() if is_linf(norm) else gradient / lengths(gradient)


def inside(delta: Tensor, norm: float | str) -> Tensor:
    """The nearest perturbation in the ball of radius 1."""
    return delta.clamp(-1, 1) if is_linf(norm) else delta / lengths(delta).clamp_min(1)


def boxed(x: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """Images inside their range, if they have one."""
    return x if clip is None else x.clamp(*clip)


def is_linf(norm: float | str) -> bool:
    """Whether the norm is l_inf, or else l2; there are no others for single steps and warm starts."""
    if norm in (2, "2", "l2", "L2"):
        return False
    if norm in (float("inf"), "inf", "linf", "Linf"):
        return True
    raise ValueError(f"norm is {norm!r}; a single step takes 2 or 'inf', and so does a warm start")


def lengths(x: Tensor) -> Tensor:
    """The l2 norm of every image, to divide by."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(TINY)
    return norm.reshape(-1, *[1] * (x.ndim - 1))
