"""What makes adversarial examples during training: any callable from (logits, x, y, step number) to images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from art_lowrank.attack.checks import check_images
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import ModelOracle
from art_lowrank.training.chance import uniform
from art_lowrank.training.moves import Place

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
        oracle = ModelOracle(lambda moved: logits(moved.reshape(len(moved), *x.shape[1:])), scale=_lift(logits))
        return run(oracle, images, y, options).x.reshape(x.shape)

    def _options(self, seed: int) -> Options:
        return Options(
            eps=self.eps, norm=self.norm, steps=self.steps, rank=self.rank, clip=self.clip, seed=seed, loss="auto"
        )


@dataclass(frozen=True)
class SingleStep:
    """One gradient from a random start, a step of `length` radii, back into the ball: "fast" adversarial training.

    After arXiv 2001.03994 for l_inf; the l2 form is ours. Images whose `indices` are known, by `at`, take their noise
    with them into any batch.
    """

    eps: float
    norm: float | str = "inf"
    length: float = 1.25
    clip: tuple[float, float] | None = (0.0, 1.0)
    indices: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible settings now."""
        is_linf(self.norm)
        for name in ("eps", "length"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a finite number of at least 0")

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        images = boxed(x + self.eps * noise(x, self.norm, number, self.indices), self.clip)
        delta = images - x + self.length * self.eps * direction(loss_gradient(logits, images, y), self.norm)
        return boxed(x + self.eps * inside(delta / max(self.eps, TINY), self.norm), self.clip)

    def at(self, place: Place) -> SingleStep:
        """The same for the images at these places."""
        return replace(self, indices=place.indices)


def placed(adversary: Adversary, place: Place | None) -> Adversary:
    """The adversary for the images at these places: another one only where their places matter to it."""
    moved: Callable[[Place], Adversary] | None = getattr(adversary, "at", None)
    return adversary if place is None or moved is None else moved(place)


def loss_gradient(logits: Logits, images: Tensor, y: Tensor) -> Tensor:
    """The gradient of the images' cross-entropy."""
    lift = _lift(logits)
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        loss = cross_entropy(logits(images), y, reduction="sum")
        found = torch.autograd.grad(loss if lift == 1 else loss * lift, images)[0]
    return found if lift == 1 else found / lift


def noise(x: Tensor, norm: float | str, number: int, indices: Tensor | None = None) -> Tensor:
    """A random perturbation of radius 1: uniform for l_inf, on the sphere for l2.

    It follows from the number and the place in the batch, or from the number's epoch and the image's index.
    """
    if indices is None:
        found = torch.rand(x.shape, generator=torch.Generator().manual_seed(number)).to(x) * 2 - 1
    else:
        found = uniform(indices, tuple(x.shape[1:]), number, 0, x)
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


def _lift(logits: Logits) -> float:
    """What the loss is multiplied with while its gradient is taken, against underflow in half precision."""
    return float(getattr(logits, "lift", 1.0))
