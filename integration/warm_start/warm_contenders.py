"""Who is compared: adversarial training from random starts and from stored ones, at the gradients it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor
from warm_tasks import Task

from art_lowrank.training.adversaries import Adversary, Logits, boxed, direction, inside, loss_gradient, noise
from art_lowrank.training.chance import STRIDE
from art_lowrank.training.store import PerturbationStore
from art_lowrank.training.warm_start import Warm, WarmStart


class Setting(NamedTuple):
    """What is tuned: the learning rate, the length of a step in radii, and after how many epochs a store is emptied."""

    rate: float
    length: float
    reset: int | None = None


@dataclass(frozen=True)
class Contender:
    """A row of the table. `share` of the task's epochs; the first of `lengths` and `resets` is where tuning starts."""

    name: str
    lengths: Sequence[float]
    steps: int = 1
    store: int | str | None = None  # rank of what is stored; None: random starts
    share: float = 1.0
    resets: Sequence[int | None] = (None,)
    low_rank: bool = False
    transport: bool = True

    @property
    def gradients(self) -> int:
        """An image and epoch, the weights' own included."""
        return self.steps + 1

    def epochs(self, task: Task) -> int:
        return max(1, round(self.share * task.epochs))

    def adversary(self, task: Task, setting: Setting) -> Adversary | Warm:
        """What makes the images that are trained on."""
        ramp = task.ramp * self.epochs(task)
        if self.store is None:
            n = -(-len(task.data().train.x) // task.batch)
            return Projected(task.eps, task.norm, self.steps, setting.length, ramp * n, n)
        x = task.data().train.x
        store = PerturbationStore(len(x), tuple(x.shape[1:]), self.store)
        settings = WarmStart(self.store, self.steps, setting.length, self.low_rank, ramp, setting.reset)
        return Warm(store, task.eps, task.norm, settings)


@dataclass(frozen=True)
class Projected:
    """PGD as most people train with it: random start, steps of one length, a radius that rises over `ramp` batches."""

    eps: float
    norm: int | str
    steps: int
    length: float
    ramp: float
    per_epoch: int

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        done = number // STRIDE % STRIDE * self.per_epoch + number % STRIDE + 1
        eps = self.eps * min(1.0, done / self.ramp) if self.ramp else self.eps
        delta = noise(x, self.norm, number)
        for _ in range(self.steps):
            images = boxed(x + eps * delta, (0, 1))
            step = self.length * direction(loss_gradient(logits, images, y), self.norm)
            delta = inside((images - x) / eps + step, self.norm)
        return boxed(x + eps * delta, (0, 1))


PGD = Contender("PGD-7", (0.36, 0.25, 0.5), steps=7)
FAST = Contender("fast", (1.25, 1.0, 0.75, 0.5))
FULL = Contender("warm start, full-rank store", (0.5, 0.75, 1.0), store="full", resets=(None, 4))


def stored(rank: int) -> Contender:
    return replace(FULL, name=f"warm start, rank {rank}", store=rank)


L2 = (
    stored(3),
    FAST,
    FULL,
    PGD,
    replace(stored(3), name="low-rank adversary, rank 3", low_rank=True),
    replace(stored(3), name="piggyback, rank 3, twice the epochs", steps=0, share=2),
    replace(PGD, name="PGD-7, a quarter of the epochs", share=0.25),
)
LINF = (
    stored(5),
    FAST,
    FULL,
    PGD,
    stored(3),
    replace(stored(5), name="warm start, rank 5, two steps", steps=2),
    replace(PGD, name="PGD-7, a quarter of the epochs", share=0.25),
)


def with_moves(rank: int) -> tuple[Contender, ...]:
    """Longer steps and fewer; the third leaves what is stored where it is when the image is moved."""
    lengths = (1.0, 0.5, 1.5)
    best = replace(stored(rank), lengths=lengths)
    return (
        best,
        replace(FAST, lengths=(1.25, 1.0)),
        replace(best, name=f"{best.name}, not moved with the image", transport=False),
        replace(FULL, lengths=lengths),
        replace(PGD, lengths=(0.25,)),
    )


def contenders(task: Task) -> Sequence[Contender]:
    """Who takes part in a task."""
    flat = task.norm == "inf"
    return with_moves(5 if flat else 3) if task.padding else LINF if flat else L2
