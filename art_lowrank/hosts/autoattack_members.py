"""One member of AutoAttack on one batch, from whichever package is installed, with the caller's things left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from art_lowrank.attack.checks import check_images, check_labels
from art_lowrank.attack.oracle import evaluating, frozen

MEMBERS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
NORMS = ("Linf", "L2", "L1")
CLASSES = {"apgd-t": 4, "apgd-dlr": 3}  # the DLR losses divide by the distance to the third or fourth logit
INSTALL = "pip install robustbench pyautoattack 'setuptools<82'"


def backend() -> ModuleType:
    """The original `autoattack` where it is installed, else `pyautoattack`, its fork on the registry.

    Not every module called `autoattack` will do: the wheel of torchattacks 3.3.0 holds one of 2020 with other insides.
    """
    for name in ("autoattack", "pyautoattack"):
        try:
            module = import_module(name)
            import_module(f"{name}.autopgd_base")
        except ImportError:
            continue
        return module
    raise ImportError(f"AutoAttack needs pyautoattack; install it with: {INSTALL}")


def package() -> str:
    """The name of the distribution that gives the attacks, for a record of versions."""
    return backend().__name__


def member(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    name: str,
    *,
    norm: str,
    eps: float,
    seed: int = 0,
    version: str = "standard",
    n_classes: int | None = None,
) -> Tensor:
    """The images that one member finds for the batch, a row unchanged where it finds none; on the images' device."""
    check_call(x, y, norm, eps)
    check_names(version, (name,))
    if not len(x):
        return x.clone()
    with guarded(model), torch.no_grad():
        return perturbed(model, x, y, name, norm, eps, seed, version, n_classes or count_classes(model, x, y))


def perturbed(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    name: str,
    norm: str,
    eps: float,
    seed: int,
    version: str,
    classes: int,
) -> Tensor:
    """As `member`, with everything checked, inside `guarded`."""
    check_classes(name, classes)
    attack = _built(model, name, classes, version, {"norm": norm, "eps": eps, "seed": seed, "device": x.device})
    # FAB and Square call view() on what they get.
    images = attack.perturb(x.detach().clone(memory_format=torch.contiguous_format), y.to(x.device))
    return cast(Tensor, images).detach()


def _built(model: Callable[[Tensor], Tensor], name: str, classes: int, version: str, options: dict[str, Any]) -> Any:
    """The member with the settings that AutoAttack gives it in this version."""
    source = backend().__name__
    large = version == "standard" and options["norm"] == "L1"  # APGD begins in larger l1 balls there
    targets = min(5 if large and name == "apgd-t" else 9, classes - 1)
    if name == "square":
        square = import_module(f"{source}.square")
        return square.SquareAttack(model, p_init=0.8, n_queries=5000, n_restarts=1, resc_schedule=False, **options)
    if name.startswith("fab"):
        targeted = name == "fab-t"
        restarts = 1 if targeted or version == "standard" else 5
        fab = import_module(f"{source}.fab_pt").FABAttack_PT
        return fab(model, n_iter=100, n_restarts=restarts, targeted=targeted, n_target_classes=targets, **options)
    options = options | {"n_iter": 100, "rho": 0.75, "use_largereps": large, "logger": _Silent()}
    apgd = import_module(f"{source}.autopgd_base")
    if name == "apgd-t":
        return apgd.APGDAttack_targeted(model, n_restarts=1, n_target_classes=targets, **options)
    restarts = 5 if large or version == "plus" else 1
    repeats = 20 if version == "rand" else 1
    return apgd.APGDAttack(model, loss=name.removeprefix("apgd-"), n_restarts=restarts, eot_iter=repeats, **options)


class _Silent:
    """Takes the warnings of both packages, which call their loggers by different names."""

    def warning(self, message: str) -> None:
        """What pyautoattack calls."""

    log = warning  # what autoattack calls


def count_classes(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> int:
    """The length of the model's logits; a label beyond it is an error here, not deep in an attack."""
    logits = model(x[:1])
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model returns {got} for one image; wrap it in a module that returns logits (1, classes)")
    classes = logits.shape[1]
    if int(y.max()) >= classes:
        raise ValueError(f"label {int(y.max())} is out of range: the model has {classes} classes, 0 to {classes - 1}")
    return classes


def check_classes(name: str, classes: int) -> None:
    """Some members need more classes than others."""
    if classes < CLASSES.get(name, 2):
        fit = ", ".join(each for each in MEMBERS if classes >= CLASSES.get(each, 2))
        raise ValueError(
            f"{name} needs {CLASSES.get(name, 2)} classes and the model has {classes}; choose members of {fit}"
        )


def check_names(version: str, members: tuple[str, ...]) -> None:
    """A version and members that AutoAttack has."""
    if version not in VERSIONS:
        raise ValueError(f"version is {version!r}; choose one of {', '.join(VERSIONS)}")
    for name in members:
        if name not in MEMBERS:
            raise ValueError(f"member {name!r} is none of AutoAttack's; choose of {', '.join(MEMBERS)}")


def check_call(x: Tensor, y: Tensor, norm: str, eps: float) -> None:
    """Images in [0, 1] as float32, labels that fit, a norm AutoAttack has and a radius."""
    check_images(x, (0.0, 1.0))
    check_labels(y, len(x))
    if x.dtype != torch.float32:
        raise ValueError(f"images are {x.dtype} and AutoAttack works in float32; pass images.float()")
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; AutoAttack has {', '.join(NORMS)}")
    if not isinstance(eps, (int, float)) or not 0 < eps < float("inf"):
        raise ValueError(f"eps is {eps!r}; give one radius above 0, such as 8 / 255")


@contextmanager
def guarded(model: object) -> Iterator[None]:
    """Evaluation mode and frozen parameters (FAB adds to their `.grad` else); modes, flags, generators come back."""
    with evaluating(model), keeping_random(), torch.inference_mode(False), frozen(model):
        yield


@contextmanager
def keeping_random() -> Iterator[None]:
    """The global generators of torch and numpy come back as they were, also after an exception."""
    drawn, ready = np.random.get_state(), torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if ready else []):
            yield
    finally:
        np.random.set_state(drawn)
        if not ready and torch.cuda.is_available():  # the seed that waits for the devices' first use
            torch.cuda.manual_seed_all(torch.initial_seed())
