"""The training loop. An epoch depends on its number, not on what ran before in this process: resuming is exact."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from art_lowrank.training.checkpoint import Folder
from art_lowrank.training.learner import Diverged, Epoch, Good, Learner, check_weights, spectrum
from art_lowrank.training.moves import Place

Batch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Place | None]
STRIDE = 1_000_003  # between the numbers of two epochs
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
) -> list[Epoch]:
    """Train for `course.epochs`, or go on where the folder's last checkpoint ends; returns what is known of each epoch.

    batches     the batches of an epoch, given its number: (x, y), for a warm start (x, y, Place)
    validate    measures the model after an epoch; what is best is decided by "robust" if it is there, else "clean"
    """
    history = []
    if folder is not None:
        history = _resumed(learner, folder) if resume else []
        folder.make()
    good = Good.of(learner)
    bar = tqdm(range(course.epochs), initial=len(history), desc="epochs", disable=not course.verbose)
    for number in range(len(history), course.epochs):
        if exhausted(history, course.patience):
            break
        try:
            history.append(one_epoch(learner.after(history), batches, number, course.seed, validate))
        except Diverged:
            good.bring_back(learner)
            raise
        good = Good.of(learner)
        if folder is not None:
            keep(learner, folder, history)
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
) -> Epoch:
    """Steps over all batches, then the scheduler, then the measurements."""
    started = time.perf_counter()
    rate = float(learner.optimizer.param_groups[0]["lr"])
    with seeded(seed, number):
        with learner.objective.epoch(number):
            losses, right, images = steps(learner, batches(number), number, seed)
            check_weights(learner.model, number)
        for handle in learner.handles:
            handle.enforce()
        measured = validate() if validate is not None else {}
        measured |= learner.watched(number + 1)
    mean = losses / max(1, images)
    known = {"epoch": number + 1, "loss": mean, "accuracy": right / max(1, images), "lr": rate, **measured}
    if not all(handle.ready for handle in learner.handles):
        known["ready"] = False
    advance(learner.scheduler, known)
    return {**known, **spectrum(learner), "seconds": time.perf_counter() - started}


def steps(learner: Learner, batches: Iterable[Batch], epoch: int, seed: int) -> tuple[float, int, int]:
    """One optimizer step a batch; the sum of the losses, the number of images right, the number of images."""
    losses, right, images = 0.0, 0, 0
    learner.model.train()
    for number, batch in enumerate(batches):
        x, y, place = (*batch, None)[:3]
        judged = learner.objective.at(place)(learner.model, learner.logits, x, y, step_number(seed, epoch, number))
        value = float(judged.loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} in epoch {epoch + 1}, step {number + 1}; the model is back at the end of the "
                "last good epoch: lower the learning rate, or check the images for NaN"
            )
        learner.optimizer.zero_grad(set_to_none=True)
        judged.loss.backward()
        learner.optimizer.step()
        losses, right, images = losses + value * len(x), right + int(judged.right), images + len(x)
    learner.model.eval()
    return losses, right, images


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


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """The global random states as a function of seed and epoch; then as they were."""
    with drawn_from(step_number(seed, epoch, 0)):
        yield


@contextmanager
def drawn_from(start: int) -> Iterator[None]:
    """The global random states (torch's, numpy's, Python's) follow from one number; then they are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(start)
        np.random.seed(start % 2**32)
        random.seed(start)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def shuffled(
    x: Tensor, y: Tensor, size: int, seed: int, device: torch.device, among: Tensor | None = None
) -> Callable[[int], Iterator[Batch]]:
    """Batches of an epoch in an order that follows from seed and epoch, of all images or `among` some.

    A last single image joins its neighbours.
    """
    chosen = torch.arange(len(x)) if among is None else among

    def batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(step_number(seed, epoch, 1)))
        parts = list(chosen[order].split(size))
        if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation cannot be trained on one image
            parts[-2:] = [torch.cat(parts[-2:])]
        for rows in parts:
            yield x[rows].to(device), y[rows].to(device), Place(rows)

    return batches


def step_number(seed: int, epoch: int, step: int) -> int:
    """A different number for every step of every epoch."""
    return ((seed % 2**20) * STRIDE + epoch) * STRIDE + step


def _resumed(learner: Learner, folder: Folder) -> list[Epoch]:
    state = folder.load()
    if state is None:
        return []
    learner.load(state, folder.path)
    return list(state["history"])
