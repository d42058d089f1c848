"""Warm starts in loops: the objective of our own, and an epoch's images for anybody else's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from art_lowrank.attack.checks import check_count, check_labels, quoted
from art_lowrank.attack.oracle import evaluating, frozen
from art_lowrank.training.adversaries import is_linf
from art_lowrank.training.chance import step_number
from art_lowrank.training.moves import Moves, Place
from art_lowrank.training.objectives import Objective
from art_lowrank.training.overfitting import Watch
from art_lowrank.training.rows import erase
from art_lowrank.training.store import PerturbationStore, usual_rank
from art_lowrank.training.team import ALONE, Team, together
from art_lowrank.training.warm_start import Warm, WarmStart, unit_of

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
    team: Team = ALONE,
) -> Objective:
    """The objective with a store in place of its attack, in the attack's ball.

    shape   of the images before augmentation, if the settings name no other height and width
    path    a folder for the store, if the settings name none
    resume  False deletes what is in the folder
    team    the processes that train together; each keeps the perturbations of its own images
    """
    eps, norm, clip = ball_of(objective)
    folder = path if settings.path is None else settings.path
    if folder is not None and not resume:
        together(team, lambda: erase(folder))
    if len(shape) != 3:
        raise ValueError(f"samples of shape {shape} are no images (channels, height, width); leave warm_start out")
    height, width = settings.frame or shape[1:]
    rank = usual_rank(norm, height, width) if settings.rank is None else settings.rank
    whole, shard = (shape[0], height, width), (team.rank, team.size)
    store = PerturbationStore(n, whole, rank, folder, unit=unit_of(norm), data=data, shard=shard)
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
        if settings.fall_back:
            raise ValueError("fall_back=True needs images to watch over the training; give validation_data")
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
    """One epoch of adversarial images and labels, for a training loop of one's own: train on them, no other attack.

    batches     (x, y, indices) or (x, y, indices, moves), as a DataLoader of `Indexed` items gives
    eps, norm   the ball, l2 or l_inf; `clip` is the range that images have and keep
    epoch       the number of epochs in your checkpoint, to go on with the files of a store; 0 begins anew. None: one
                more in this process, and an error where files tell of epochs before
    settings    steps, length, low_rank, ramp and reset; the rest is for `LowRankTrainer`
    An epoch counts if the loop runs to its end. Images move to the net's device.
    """
    chosen = WarmStart() if settings is None else settings
    warm = Warm(store, eps, norm, chosen, clip)
    check_count("seed", seed, 0)
    _check_own_loop(store, chosen)
    if epoch is None and store.found:
        raise ValueError(
            f"{store.path} holds perturbations after {store.found} epochs; give epoch={store.found} to go on from them "
            "(as many as your checkpoint has done), or epoch=0 to begin anew"
        )
    return _epoch(model, batches, warm, store.epoch if epoch is None else epoch, seed)


def _epoch(model: Any, batches: Iterable[Any], warm: Warm, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    warm.begin(epoch)
    if isinstance(model, nn.parallel.DistributedDataParallel):  # whose every forward pass sends buffers around
        model = model.module
    device = (
        next((parameter.device for parameter in model.parameters()), None) if isinstance(model, nn.Module) else None
    )
    for number, batch in enumerate(batches):
        x, y, place = placed(batch)
        x, y = x.to(device), y.to(device)
        if not (y.ndim == 2 and y.is_floating_point()):  # else a row of numbers an image, one a class
            check_labels(y, len(x))
        with evaluating(model), frozen(model):
            classes = y if y.is_floating_point() else y.long()
            images = warm.at(place)(model, x, classes, step_number(seed, epoch, number))
        yield images, y
    warm.store.commit()


def _check_own_loop(store: PerturbationStore, settings: WarmStart) -> None:
    """Refuse settings that would do nothing."""
    kept = "full" if store.dense else store.rank
    if settings.rank not in (None, kept):
        raise ValueError(f"settings say rank={settings.rank!r}, the store keeps {kept!r}; leave rank out")
    for name in ("path", "frame", "fall_back"):
        if getattr(settings, name):
            value = getattr(settings, name)
            raise ValueError(f"settings say {name}={value!r}, which only LowRankTrainer heeds; leave it out")


def placed(batch: Any) -> tuple[Tensor, Tensor, Place]:
    """A batch as images, labels and their place; one without indices is refused."""
    if not isinstance(batch, list | tuple) or len(batch) not in (3, 4):
        count = f"{len(batch)} parts" if isinstance(batch, list | tuple) else type(batch).__name__
        raise ValueError(
            f"a batch is {count}; a warm start needs (x, y, indices) or (x, y, indices, moves), with indices that are "
            "the same in every epoch: wrap the data set, art_lowrank.training.Indexed(dataset)"
        )
    x, y, indices, *rest = batch
    try:
        moves = Moves(*map(torch.as_tensor, rest[0])) if rest else None
        place = Place(torch.as_tensor(indices), moves)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"indices and moves are {quoted(indices)} and {[quoted(r) for r in rest]} ({error})"
        ) from error
    if moves is not None and not tuple(moves.scale.shape) == tuple(moves.shift.shape) == (len(place.indices), 2):
        shapes = tuple(moves.scale.shape), tuple(moves.shift.shape)
        raise ValueError(f"moves of shapes {shapes} do not fit {len(place.indices)} indices; give (n, 2) of each")
    return torch.as_tensor(x), torch.as_tensor(y), place
