"""The training loop. An epoch depends on its number, not on what ran before in this process: resuming is exact."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from art_lowrank.training.adversaries import Logits
from art_lowrank.training.checkpoint import Folder, State, load_weights
from art_lowrank.training.objectives import Objective
from art_lowrank.weights import Handle, low_rank_layers, ranks_of

Batch = tuple[Tensor, Tensor]
Epoch = dict[str, Any]  # what is known of one epoch, plain values
SHOWN = ("loss", "clean", "robust", "cond")  # of an epoch, beside the progress bar


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the model is back at the end of the last good epoch."""


@dataclass(frozen=True)
class Learner:
    """What is trained, by what. `logits` is the model, or the model behind a host's preprocessing."""

    model: nn.Module
    logits: Logits
    optimizer: Optimizer
    objective: Objective
    handles: Sequence[Handle] = ()
    scheduler: Any = None

    def state(self) -> State:
        """Everything that changes in training, to be saved."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "handles": [handle.state_dict() for handle in self.handles],
            "ranks": ranks_of(self.model),
        }

    def load(self, state: State, source: object) -> None:
        """Back to where `state` was taken."""
        load_weights(self.model, state["model"], source)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for handle, kept in zip(self.handles, state["handles"], strict=True):
            handle.load_state_dict(kept)


class Good(NamedTuple):
    """Weights and methods at the end of an epoch, kept in memory until the next one is done."""

    weights: dict[str, Tensor]
    handles: list[dict[str, Any]]

    @classmethod
    def of(cls, learner: Learner) -> Good:
        weights = {name: value.clone() for name, value in learner.model.state_dict().items()}
        return cls(weights, [handle.state_dict() for handle in learner.handles])

    def bring_back(self, learner: Learner) -> None:
        """The model as it was; the optimizer's moments, which may be NaN, are emptied."""
        load_weights(learner.model, self.weights, "the last good epoch")
        learner.optimizer.state.clear()
        for handle, kept in zip(learner.handles, self.handles, strict=True):
            handle.load_state_dict(kept)


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

    batches     the batches of an epoch, given its number
    validate    measures the model after an epoch; what is best is decided by "robust" if it is there, else "clean"
    """
    history = _resumed(learner, folder) if resume and folder is not None else []
    if folder is not None:
        folder.make()
    good = Good.of(learner)
    bar = tqdm(range(course.epochs), initial=len(history), desc="epochs", disable=not course.verbose)
    for number in range(len(history), course.epochs):
        if exhausted(history, course.patience):
            break
        try:
            history.append(one_epoch(learner, batches, number, course.seed, validate))
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
        losses, right, images = steps(learner, batches(number), number, seed)
        for handle in learner.handles:
            handle.enforce()
        measured = validate() if validate is not None else {}
    mean = losses / max(1, images)
    advance(learner.scheduler, -goodness(measured) if measured else mean)
    known = {"epoch": number + 1, "loss": mean, "accuracy": right / max(1, images), "lr": rate, **measured}
    return {**known, **spectrum(learner), "seconds": time.perf_counter() - started}


def steps(learner: Learner, batches: Iterable[Batch], epoch: int, seed: int) -> tuple[float, int, int]:
    """One optimizer step a batch; the sum of the losses, the number of images right, the number of images."""
    losses, right, images = 0.0, 0, 0
    learner.model.train()
    for number, (x, y) in enumerate(batches):
        judged = learner.objective(learner.model, learner.logits, x, y, _number(seed, epoch, number))
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


def spectrum(learner: Learner) -> Epoch:
    """The worst condition number and the parameters' ranks after an epoch; effective ranks where weights are dense."""
    found: Epoch = {}
    layers = low_rank_layers(learner.model)
    if layers:
        found = {"cond": max(layer.cond() for layer in layers.values()), "ranks": ranks_of(learner.model)}
    for handle in learner.handles:
        found |= handle.notes()
    return found


def keep(learner: Learner, folder: Folder, history: list[Epoch]) -> None:
    """The best weights, if this epoch is the best, then the last state: a kill in between repeats the epoch."""
    if len(history) == best_of(history) + 1 and goodness(history[-1]) > -math.inf:
        folder.save_best(learner.model, {name: value for name, value in history[-1].items() if name != "seconds"})
    folder.save({**learner.state(), "history": history})


def goodness(epoch: Epoch) -> float:
    """What makes an epoch the best: accuracy under attack where it was measured, else clean accuracy."""
    return next((float(epoch[name]) for name in ("robust", "clean") if name in epoch), -math.inf)


def best_of(history: Sequence[Epoch]) -> int:
    """The index of the best epoch, the first of several."""
    return max(range(len(history)), key=lambda index: (goodness(history[index]), -index))


def exhausted(history: Sequence[Epoch], patience: int | None) -> bool:
    """Whether the best epoch lies `patience` or more epochs back."""
    return patience is not None and bool(history) and len(history) - 1 - best_of(history) >= patience


def advance(scheduler: Any, measure: float) -> None:
    """One step of any scheduler, once an epoch; ReduceLROnPlateau is shown a number that should fall."""
    if scheduler is None:
        return
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step(measure if scheduler.mode == "min" else -measure)
    else:
        scheduler.step()


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """The global random states (torch's, numpy's, Python's) as a function of seed and epoch; then as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        start = _number(seed, epoch, 0)
        torch.manual_seed(start)
        np.random.seed(start % 2**32)
        random.seed(start)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def shuffled(x: Tensor, y: Tensor, size: int, seed: int, device: torch.device) -> Callable[[int], Iterator[Batch]]:
    """Batches of an epoch in an order that follows from seed and epoch. A last single image joins its neighbours."""

    def batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_number(seed, epoch, 1)))
        parts = list(order.split(size))
        if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation cannot be trained on one image
            parts[-2:] = [torch.cat(parts[-2:])]
        for rows in parts:
            yield x[rows].to(device), y[rows].to(device)

    return batches


def _number(seed: int, epoch: int, step: int) -> int:
    """A different number for every step of every epoch."""
    return ((seed % 2**20) * 1_000_003 + epoch) * 1_000_003 + step


def _resumed(learner: Learner, folder: Folder | None) -> list[Epoch]:
    state = None if folder is None else folder.load()
    if folder is None or state is None:
        return []
    learner.load(state, folder.path)
    return list(state["history"])
