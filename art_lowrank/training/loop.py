"""The training loop. An epoch depends on its number, not on what ran before in this process: resuming is exact."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from art_lowrank.training.chance import seeded, step_number
from art_lowrank.training.checkpoint import Folder, State
from art_lowrank.training.learner import Diverged, Epoch, Good, Learner, check_weights, spectrum
from art_lowrank.training.measure import fingerprint
from art_lowrank.training.moves import Place
from art_lowrank.training.step import Sums, check_team, one_step
from art_lowrank.training.team import ALONE, Team, agree, check_same, first

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Place | None]
LANES = 48  # that divide images among 2, 3, 4, 6, 8, 12, 16 or 24 processes
FEW = 16  # two for each of eight processes
SHOWN = ("loss", "clean", "robust", "overfit", "cond")  # of an epoch, beside the progress bar


class Course(NamedTuple):
    """How long, and who watches. `patience` counts validations, so it does nothing without."""

    epochs: int
    seed: int = 0
    patience: int | None = None  # epochs without a better validation before training stops
    verbose: bool = True


def train(
    learner: Learner,
    batches: Callable[[int], Iterable[Batch]],
    course: Course,
    validate: Callable[[], dict[str, float]] | None = None,
    folder: Folder | None = None,
    resume: bool = True,
    team: Team = ALONE,
) -> list[Epoch]:
    """Train for `course.epochs`, or go on where the folder's last checkpoint ends; returns what is known of each epoch.

    batches     the batches of an epoch, given its number: (x, y), for a warm start (x, y, Place)
    validate    measures the model after an epoch; what is best is decided by "robust" if it is there, else "clean"
    team        the processes that train together, each with the same model, data and arguments; every one walks through
                whole batches and takes its share, and the first one alone reads and writes the folder
    """
    check_team(learner, team)
    history = []
    if folder is not None:
        history = _resumed(learner, folder, team) if resume else []
        first(team, folder.make)
    agree(team, learner.model)
    good = Good.of(learner)
    bar = tqdm(range(course.epochs), initial=len(history), desc="epochs", disable=not course.verbose or team.rank > 0)
    for number in range(len(history), course.epochs):
        if exhausted(history, course.patience):
            break
        try:
            history.append(one_epoch(learner.after(history), batches, number, course.seed, validate, team))
        except Diverged:
            good.bring_back(learner)
            raise
        good = Good.of(learner)
        if folder is not None:
            first(team, lambda: keep(learner, folder, history))
        bar.set_postfix({name: f"{history[-1][name]:.4g}" for name in SHOWN if name in history[-1]})
        bar.update()
    bar.close()
    return history


def one_epoch(
    learner: Learner,
    batches: Callable[[int], Iterable[Batch]],
    number: int,
    seed: int,
    validate: Callable[[], dict[str, float]] | None,
    team: Team = ALONE,
) -> Epoch:
    """Steps over all batches, then the measurements, then the scheduler."""
    started = time.perf_counter()
    rate = float(learner.optimizer.param_groups[0]["lr"])
    with seeded(seed, number):
        with learner.objective.epoch(number, team):
            found = steps(learner, batches(number), number, seed, team)
            check_weights(learner.model, number)
        for handle in learner.handles:
            handle.enforce()
        agree(team, learner.model)
        measured = validate() if validate is not None else {}
        measured |= learner.watched(number + 1, team)
    mean, accuracy = found.losses / max(1, found.images), found.right / max(1, found.images)
    known = team.told({"epoch": number + 1, "loss": mean, "accuracy": accuracy, "lr": rate, **measured})
    if not all(handle.ready for handle in learner.handles):
        known["ready"] = False
    advance(learner.scheduler, known)
    ended: Epoch = team.told({**known, **spectrum(learner), "seconds": time.perf_counter() - started})
    return ended


def steps(learner: Learner, batches: Iterable[Batch], epoch: int, seed: int, team: Team = ALONE) -> Sums:
    """One optimizer step a batch; the sums over all images, of all processes."""
    done = Sums(0.0, 0, 0)
    learner.model.train()
    for number, batch in enumerate(batches):
        x, y, place = (*batch, None)[:3]
        if number == 0 and team.size > 1:  # of loaders with an order of their own each image would count otherwise
            indices = "none" if place is None else fingerprint(place.indices)
            check_same(team, "first batches", {"x": fingerprint(x), "y": fingerprint(y), "indices": indices})
        place = None if place is None else place._replace(done=done.images + len(x))
        found = one_step(learner, x, y, place, step_number(seed, epoch, number), team)
        if not math.isfinite(found.losses) or learner.precision.lost:
            what = f"loss is {found.losses}" if not math.isfinite(found.losses) else "gradient overflows at any scale"
            raise Diverged(
                f"the {what} in epoch {epoch + 1}, step {number + 1}; the model is back at the end of the "
                "last good epoch: lower the learning rate, or check the images for NaN"
            )
        done = done.plus(found)
    learner.model.eval()
    return done


def keep(learner: Learner, folder: Folder, history: list[Epoch]) -> None:
    """The best weights, if this epoch is the best, then the last state: a kill in between repeats the epoch."""
    if len(history) == best_of(history) + 1 and goodness(history[-1]) > -math.inf:
        folder.save_best(learner.model, {name: value for name, value in history[-1].items() if name != "seconds"})
    folder.save({**learner.state(), "history": history})


def goodness(epoch: Epoch) -> float:
    """What makes an epoch the best: accuracy under attack where it was measured, else clean accuracy.

    One whose bound was still on its way down is none.
    """
    accuracy = validated(epoch)
    return -math.inf if accuracy is None or not epoch.get("ready", True) else accuracy


def validated(epoch: Epoch) -> float | None:
    """Accuracy on validation images, under attack where that was measured; None where nothing was."""
    return next((float(epoch[name]) for name in ("robust", "clean") if name in epoch), None)


def best_of(history: Sequence[Epoch]) -> int:
    """The index of the best epoch, the first of several."""
    return max(range(len(history)), key=lambda index: (goodness(history[index]), -index))


def exhausted(history: Sequence[Epoch], patience: int | None) -> bool:
    """Whether the best epoch lies `patience` or more epochs back."""
    return patience is not None and bool(history) and len(history) - 1 - best_of(history) >= patience


def advance(scheduler: Any, epoch: Epoch) -> None:
    """One step of any scheduler, once an epoch; ReduceLROnPlateau is shown accuracy, or what should fall instead."""
    if scheduler is None:
        return
    if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step()
        return
    accuracy = validated(epoch)
    if scheduler.mode == "max":
        scheduler.step(epoch["accuracy"] if accuracy is None else accuracy)
    else:
        scheduler.step(epoch["loss"] if accuracy is None else 1 - accuracy)


def shuffled(
    x: Tensor,
    y: Tensor,
    size: int,
    seed: int,
    device: torch.device,
    among: Tensor | None = None,
    *,
    even: bool = False,
) -> Callable[[int], Iterator[Batch]]:
    """Batches of an epoch in an order that follows from seed and epoch, of all images or `among` some.

    even    for warm starts by several processes: every one owns as many images of a batch as the others, nearly
    A last single image joins its neighbours; with `even` fewer than 16 do.
    """
    chosen = torch.arange(len(x)) if among is None else among

    def batches(epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(step_number(seed, epoch, 1))
        order = chosen[torch.randperm(len(chosen), generator=generator)]
        parts = list((in_lanes(order, generator) if even else order).split(size))
        few = min(size, FEW) if even else 2  # batch normalisation cannot be trained on one image a process
        if len(parts) > 1 and len(parts[-1]) < few:
            parts[-2:] = [torch.cat(parts[-2:])]
        for rows in parts:
            yield x[rows].to(device), y[rows].to(device), Place(rows)

    return batches


def in_lanes(order: Tensor, generator: torch.Generator) -> Tensor:
    """The same images, of every lane (index modulo 48) one, then of every lane another one, and so on.

    Any 8 lanes in a row are 8 different ones modulo 8, and so on for whatever divides 48; which comes first is chance.
    """
    units = [step for step in range(LANES) if math.gcd(step, LANES) == 1]
    unit, start = (int(torch.randint(most, (), generator=generator)) for most in (len(units), LANES))
    lanes = order % LANES
    by_lane, counts = lanes.argsort(stable=True), lanes.bincount(minlength=LANES)
    turns = torch.empty_like(order)
    turns[by_lane] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[lanes[by_lane]]
    return order[(turns * LANES + (lanes * units[unit] + start) % LANES).argsort()]


def _resumed(learner: Learner, folder: Folder, team: Team) -> list[Epoch]:
    state: State | None = first(team, folder.load)
    if state is None:
        return []
    learner.load(state, folder.path)
    return list(state["history"])
