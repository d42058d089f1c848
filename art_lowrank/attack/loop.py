"""The one loop: every method, host and option climbs through `ascend`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp, length, per_image
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.losses import Loss
from art_lowrank.attack.oracle import Judged, Oracle
from art_lowrank.attack.start import Problem

Watch: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], None]  # step, gradient, images, labels


class Search(Protocol):
    """How factors move. A search holds its settings; its state is the factors it is given and gives back."""

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """The factors before the first gradient."""

    def delta(self, factors: Factors, eps: Tensor) -> Tensor:
        """The perturbation the factors stand for, (n, c, h, w)."""

    def final(self, factors: Factors, eps: Tensor) -> Factors:
        """Factors whose plain product is that perturbation."""

    def step(self, i: int, factors: Factors, gradient: Tensor, moved: Tensor, problem: Problem) -> Factors:
        """The factors after gradient i, which was taken at `moved`, clamped to the box."""


@dataclass
class Ledger:
    """The best iterate of every image so far, and what it cost."""

    factors: Factors
    margin: Tensor  # NaN until an oracle has judged the image: then the latest iterate counts as the best
    forwards: Tensor
    gradients: Tensor
    doubtful: Tensor

    @classmethod
    def open(cls, factors: Factors) -> Ledger:
        n, device = len(factors.left), factors.left.device
        blank = torch.zeros(n, dtype=torch.long, device=device)
        unknown = torch.full((n,), torch.nan, dtype=factors.left.dtype, device=device)
        kept = Factors(*(f.clone(memory_format=torch.contiguous_format) for f in factors))
        return cls(kept, unknown, blank, blank.clone(), blank.bool())

    def note(self, rows: Tensor, factors: Factors, margin: Tensor) -> None:
        """Keep the iterates that beat the best so far; count the forward."""
        self.forwards[rows] += 1
        margin = margin.to(self.margin.dtype)
        better = self.margin[rows].isnan() | (margin > self.margin[rows])
        chosen = rows[better]
        self.margin[chosen] = margin[better]
        self.factors.left[chosen] = factors.left[better]
        self.factors.right[chosen] = factors.right[better]

    @property
    def broken(self) -> Tensor:
        """Where the attack has reached its goal."""
        return self.margin > 0


@dataclass(frozen=True)
class Climb:
    """What stays the same over all steps and restarts."""

    oracle: Oracle
    search: Search
    losses: list[Loss]
    early_stop: bool
    dtype: torch.dtype  # of the images the oracle is shown
    decay: float | None = None
    watch: Watch | None = None

    def shown(self, moved: Tensor, problem: Problem) -> Tensor:
        return clamp(moved, problem.box).to(self.dtype)


def ascend(climb: Climb, problem: Problem, factors: Factors, ledger: Ledger, rows: Tensor) -> None:
    """Climb one start to its end; `rows` are the ledger rows of the problem's images. The best iterates are noted."""
    momentum: Tensor | None = None
    for i, loss in enumerate(climb.losses):
        moved = problem.x + perturbation(climb.search, factors, problem)
        shown = climb.shown(moved, problem)
        judged = climb.oracle.gradient(shown, problem.y, loss)
        margin = climb.oracle.judge(shown, problem.y) if _unjudged(judged, climb.early_stop) else judged.margin
        ledger.note(rows, factors, margin)
        ledger.gradients[rows] += 1
        gradient, dead = _usable(judged.gradient.to(problem.x.dtype))
        ledger.doubtful[rows] |= dead | judged.doubtful
        if climb.watch is not None:
            climb.watch(i, gradient, shown, problem.y)
        if problem.mask is not None:
            gradient = gradient * problem.mask
        if climb.decay is not None:
            momentum = _momentum(momentum, gradient, climb.decay)
            gradient = momentum
        if climb.early_stop and bool((margin > 0).any()):
            left = ~(margin > 0)
            rows, problem, factors = rows[left], problem.rows(left), factors.rows(left)
            gradient, moved = gradient[left], moved[left]
            momentum = None if momentum is None else momentum[left]
            if not len(rows):
                return
        factors = climb.search.step(i, factors, gradient.contiguous(), moved, problem)
    last = climb.shown(problem.x + perturbation(climb.search, factors, problem), problem)
    ledger.note(rows, factors, climb.oracle.judge(last, problem.y))


def perturbation(search: Search, factors: Factors, problem: Problem) -> Tensor:
    """What is added to the images: the search's perturbation, zero outside the mask and then as long as before."""
    delta = search.delta(factors, problem.eps)
    return delta if problem.mask is None else delta * problem.mask * per_image(_stretch(delta, problem.mask))


def _stretch(delta: Tensor, mask: Tensor) -> Tensor:
    """How much longer the masked perturbation must get to be as long as the whole one, (n,)."""
    kept = length(delta * mask)
    return torch.where(kept > 0, length(delta) / kept, 1.0)


def _unjudged(judged: Judged, early_stop: bool) -> bool:
    """An oracle without margins is asked for them where broken images must leave the batch."""
    return early_stop and bool(judged.margin.isnan().all())


def _usable(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with the unusable ones (zero, or with NaN or infinity) set to zero, and where those were."""
    size = length(gradient)
    dead = ~(torch.isfinite(size) & (size > 0))
    return (gradient.masked_fill(per_image(dead), 0.0) if bool(dead.any()) else gradient), dead


def _momentum(past: Tensor | None, gradient: Tensor, decay: float) -> Tensor:
    """The momentum iterative method's average of gradients of unit l1 norm (Dong et al. 2018), as ART has it."""
    unit = gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-30)
    return unit if past is None else decay * past + unit
