"""Ways to train a net of a course: dense, low-rank in several ways, penalised, against adversarial images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from courses import Course
from from_others import CondLRSGD, condense
from torch import Tensor, nn
from torch.optim import Optimizer

from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import ModelOracle
from art_lowrank.training.adversaries import Adversary, Logits, boxed, direction, inside, loss_gradient, noise
from art_lowrank.training.chance import STRIDE
from art_lowrank.training.methods import attach
from art_lowrank.weights import Handle, factorize, ranks_of

Built = tuple[nn.Module, Optimizer, list[Handle]]
LOOK = 512  # images by which ranks are chosen


@dataclass(frozen=True)
class Way:
    """A row of a table. `method` and its options say how weights are trained, `against` on which images."""

    name: str
    method: str = "dense"  # of the package, or "peer": CondLR from the paper's formulas
    keep: float = 1.0  # share of the parameters stored
    options: Mapping[str, Any] = field(default_factory=dict)
    against: str = ""  # "pgd", "paper" or "power"; without: clean images
    rank: int | str = "full"
    eps: float = 0.0
    gradients: int = 5  # of the attack, an image

    def built(self, course: Course, seed: int, rate: float) -> Built:
        """The net with its optimizer and what hangs on it."""
        if self.keep == 1:
            model = course.build(seed)
            optimizer = course.optimizer(model, rate)
            return model, optimizer, attach(self.method, model, optimizer, self.options)
        ranks = chosen(course, self.keep, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.method == "peer":
                model = condense(course.build(seed), ranks)
                return model, CondLRSGD(model, rate, 0.9, **self.options), []
            model = factorize(course.build(seed), ranks=ranks, fresh=True)
        optimizer = course.optimizer(model, rate)
        return model, optimizer, attach(self.method, model, optimizer, self.options)

    def adversary(self, course: Course) -> Adversary | None:
        if not self.against:
            return None
        batches = -(-course.trained_on // course.batch)
        return Rising(self.against, self.rank, self.eps, self.gradients, 0.3 * course.epochs * batches, batches)

    def settings(self) -> dict[str, Any]:
        """What goes into the record."""
        said = {name: str(value) for name, value in self.options.items()}
        images = {"against": self.against, "rank": self.rank, "eps": self.eps, "gradients": self.gradients}
        return {"way": self.name, "method": self.method, "keep": self.keep, **said, **(images if self.against else {})}


def chosen(course: Course, keep: float, seed: int) -> dict[str, int]:
    """The ranks that `factorize` chooses for the untrained net: all ways at one share have them."""
    images = course.parts()[0].x[:LOOK]
    return ranks_of(factorize(course.build(seed), keep=keep, ranks="activation", data=images))


@dataclass(frozen=True)
class Rising:
    """The attack of adversarial training. Its radius rises over the first `ramp` batches: all contenders need it."""

    search: str
    rank: int | str
    eps: float
    steps: int
    ramp: float
    per_epoch: int

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        done = number // STRIDE % STRIDE * self.per_epoch + number % STRIDE + 1
        eps = self.eps * min(1.0, done / self.ramp)
        if self.search == "pgd":
            return projected(logits, x, y, eps, self.steps, number)
        options = Options(eps=eps, rank=self.rank, steps=self.steps, method=self.search, seed=number)
        return run(ModelOracle(logits), x, y, options).x


def projected(logits: Logits, x: Tensor, y: Tensor, eps: float, steps: int, number: int) -> Tensor:
    """PGD as most people train with it: random start, steps of 2.5 radii over their number, projected each time."""
    delta = noise(x, 2, number)
    for _ in range(steps):
        images = boxed(x + eps * delta, (0, 1))
        delta = inside((images - x) / eps + 2.5 / steps * direction(loss_gradient(logits, images, y), 2), 2)
    return boxed(x + eps * delta, (0, 1))


def low_rank(name: str, method: str, keep: float, **options: Any) -> Way:
    return Way(f"{name}, keep {keep:g}", method, keep, options)


def shares(keep: float) -> tuple[Way, ...]:
    """What is compared at one share of parameters."""
    return (
        low_rank("vanilla U s V", "none", keep),
        low_rank("CondLR tau 0.1", "peer", keep, max_cond=1.1),
        low_rank("CondLR tau 0.5", "peer", keep, max_cond=1.5),
        low_rank("CondLR mean", "peer", keep, variant="mean", max_cond=1.0),
        low_rank("ours, cond 1.5", "condlr", keep, max_cond=1.5),
        low_rank("RobustDLRT", "dlrt", keep, beta=0.05, tolerance=0.1),
    )


DENSE = Way("dense")
