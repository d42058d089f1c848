"""Which images survive APGD of the `pyautoattack` package: the same attack and judge for every net that is compared."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from art_lowrank.attack.oracle import evaluating

NORMS = {2: "L2", math.inf: "Linf"}  # our names and theirs
ROUNDING, SLACK = 1e-6, 1e-5  # of pixels, and of norms in float32 as a share of eps


def robust(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: float,
    n_iter: int = 100,
    targets: int = 9,
    seed: int = 0,
    batch: int = 250,
) -> Tensor:
    """(n,) bool: right as they are, under APGD-CE, and under APGD-T with the `targets` likeliest wrong classes.

    One random start each. The defaults are the two first attacks of AutoAttack's standard version; APGD-T sees only
    the survivors of APGD-CE. Random starts depend on an image's place in its batch, so compare equal `batch` only.
    """
    options = {"n_iter": n_iter, "norm": named(norm), "eps": eps, "seed": seed, "device": x.device}
    with untouched(model, x):
        holds = right(model, x, y, batch)
        classes = model(x[:1]).shape[1]
        if classes < 4 or not 1 <= targets < classes:
            raise ValueError(
                f"{targets} targets of {classes} classes: APGD-T takes 1 to classes - 1, from 4 classes on"
            )
        for attack in (
            APGDAttack(model, loss="ce", **options),
            APGDAttack_targeted(model, n_target_classes=targets, **options),
        ):
            holds = survivors(model, x, y, holds, attack.perturb, eps, norm, batch)
    return holds


def standard(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: float, seed: int = 0, batch: int = 250
) -> Tensor:
    """(n,) bool: what survives AutoAttack standard: APGD-CE, APGD-T, FAB-T and Square, each on survivors."""
    with untouched(model, x):
        attack = AutoAttack(model, norm=named(norm), eps=eps, seed=seed, version="standard", device=x.device)

        def attacked(images: Tensor, labels: Tensor) -> Tensor:
            found: Tensor = attack.run_standard_evaluation(images, labels, batch_size=batch)[0]
            return found

        return survivors(model, x, y, right(model, x, y, batch), attacked, eps, norm, len(x))


def survivors(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    holds: Tensor,
    attacked: Callable[[Tensor, Tensor], Tensor],
    eps: float,
    norm: float,
    batch: int,
) -> Tensor:
    """Those of `holds` that the attack does not break, judged by the model's answer on the images it returns."""
    holds = holds.clone()
    for rows in holds.nonzero()[:, 0].split(batch):
        if not len(rows):  # split of nothing gives one empty piece
            continue
        images = attacked(x[rows], y[rows]).detach()
        inside(images, x[rows], eps, norm)
        holds[rows] = right(model, images, y[rows], batch)
    return holds


def named(norm: float) -> str:
    """The norm as the package calls it."""
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; choose 2 or math.inf")
    return NORMS[norm]


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """Which images the model gets right."""
    return torch.cat([model(images).argmax(1) for images in x.split(batch)]) == y


def inside(images: Tensor, x: Tensor, eps: float, norm: float) -> None:
    """An image outside [0, 1] or the ball is an error, whoever made it."""
    low, high = (float(bound) for bound in images.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the attacked images span [{low:.9g}, {high:.9g}], outside [0, 1]")
    distance = float(torch.linalg.vector_norm((images.double() - x.double()).flatten(1), norm, dim=1).max())
    if distance > eps * (1 + SLACK) + ROUNDING:
        raise ValueError(f"an attacked image lies {distance:.9g} from its clean image, more than eps = {eps}")


@contextmanager
def untouched(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Evaluation mode, frozen parameters, and afterwards modes, flags, torch's generator and tracer as they were.

    FAB would add to `.grad` of parameters that are not frozen; all attacks seed torch's global generator; AutoAttack's
    check for dynamic defences ends the tracer of debuggers and coverage.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    tracer = sys.gettrace()
    with evaluating(model), torch.random.fork_rng([x.device] if x.is_cuda else []):
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            sys.settrace(tracer)
            for parameter in learning:
                parameter.requires_grad_(True)
