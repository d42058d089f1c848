"""Warm starts in loops: the objective of our own, and an epoch's images for anybody else's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from art_lowrank.attack.oracle import evaluating
from art_lowrank.training.adversaries import is_linf
from art_lowrank.training.moves import Moves, Place
from art_lowrank.training.objectives import Objective
from art_lowrank.training.overfitting import Watch
from art_lowrank.training.store import PerturbationStore, erase, usual_rank
from art_lowrank.training.warm_start import Warm, WarmStart

HELD = 256  # images at most that watch over the training and are not trained on


def settings_of(given: object) -> WarmStart | None:
    """What the caller gave as `warm_start`: True for the usual settings, or settings."""
    if given is False or given is None:
        return None
    if given is True:
        return WarmStart()
    if not isinstance(given, WarmStart):
        raise ValueError(f"warm_start is {given!r}; give True, False or art_lowrank.training.WarmStart(...)")
    return given


def check_warm(objective: Objective, trainer: object) -> None:
    """What a warm start needs."""
    if trainer is not None:
        raise ValueError(f"{type(trainer).__name__} makes its own adversarial samples; leave warm_start out")
    ball_of(objective)


def held_back(n: int, wanted: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Which of n images are trained on, and which watch over the training, if that is wanted."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) if wanted else torch.arange(n)
    held = min(HELD, n // 20) if wanted else 0
    return order[held:], order[:held]


def remembering(
    objective: Objective,
    settings: WarmStart,
    n: int,
    shape: tuple[int, ...],
    path: str | PathLike[str] | None,
    data: str,
    resume: bool = True,
) -> Objective:
    """The objective with a store in place of its attack, in the attack's ball.

    shape   of the images as they are shown
    path    a folder for the store, if the settings name none
    resume  False deletes what is in the folder
    """
    eps, norm, clip = ball_of(objective)
    folder = path if settings.path is None else settings.path
    if folder is not None and not resume:
        erase(folder)
    if len(shape) != 3:
        raise ValueError(f"samples of shape {shape} are no images (channels, height, width); leave warm_start out")
    unit = "linf" if is_linf(norm) else "l2"
    height, width = settings.frame or shape[1:]
    rank = usual_rank(unit, height, width) if settings.rank is None else settings.rank
    store = PerturbationStore(n, (shape[0], height, width), rank, folder, unit=f"{unit} radius", data=data)
    return replace(objective, adversary=Warm(store, eps, norm, settings, clip))


def ball_of(objective: Objective) -> tuple[float, float | str, tuple[float, float] | None]:
    """Radius, norm and range of an objective's attack."""
    if objective.adversary is None:
        raise ValueError(
            "warm_start=True needs an attack whose ball it works in; give objective='madry' and attack=Pgd(eps=...)"
        )
    attack: Any = objective.adversary
    try:
        eps, norm, clip = float(attack.eps), attack.norm, attack.clip
        is_linf(norm)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"warm_start=True takes eps and norm (2 or inf) from the attack; {attack!r} does not give them "
            f"({error}); give attack=Pgd(eps=..., norm=...)"
        ) from error
    return eps, norm, clip


def watch_of(objective: Objective, settings: WarmStart, among: tuple[Tensor, Tensor] | None) -> Watch | None:
    """What watches over a training, on some of these images and class numbers; None without any."""
    if among is None or not len(among[0]):
        return None
    x, y = among
    eps, norm, clip = ball_of(objective)
    return Watch(x[:HELD], y[:HELD], eps, norm, clip, settings.limit, settings.fall_back, settings.ramp)


def warm_started(
    model: Any,
    batches: Iterable[Any],
    store: PerturbationStore,
    *,
    eps: float,
    norm: float | str = 2,
    epoch: int | None = None,
    seed: int = 0,
    settings: WarmStart | None = None,
    clip: tuple[float, float] | None = (0.0, 1.0),
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of adversarial images and labels for a training loop of one's own.

    batches     (x, y, indices) or (x, y, indices, moves); `Indexed` makes a data set of such items
    epoch       how many were done before; None: as many as the store says, which a kill leaves ahead of your checkpoint
                if it comes between the two. 0 begins anew
    """
    warm = Warm(store, eps, norm, settings or WarmStart(), clip)
    warm.begin(store.epoch if epoch is None else epoch)
    for number, batch in enumerate(batches):
        x, y, place = placed(batch)
        with evaluating(model):
            images = warm.at(place)(model, x, y, (seed * 1_000_003 + store.epoch) * 1_000_003 + number)
        yield images, y
    store.commit()


def placed(batch: Any) -> tuple[Tensor, Tensor, Place]:
    """A batch as images, labels and their place; one without indices is refused."""
    if not isinstance(batch, list | tuple) or len(batch) not in (3, 4):
        count = f"{len(batch)} parts" if isinstance(batch, list | tuple) else type(batch).__name__
        raise ValueError(
            f"a batch is {count}; a warm start needs (x, y, indices) or (x, y, indices, moves), with indices that are "
            "the same in every epoch: wrap the data set, art_lowrank.training.Indexed(dataset)"
        )
    x, y, indices, *rest = batch
    moves = Moves(*map(torch.as_tensor, rest[0])) if rest else None
    return torch.as_tensor(x), torch.as_tensor(y), Place(torch.as_tensor(indices), moves)
