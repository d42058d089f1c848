"""The one loop: every method, host and option climbs through `ascend`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp_, length, per_image
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.losses import Loss
from art_lowrank.attack.oracle import Judged, Oracle
from art_lowrank.attack.start import Problem

Watch: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], None]  # step, gradient, images, labels


class Search(Protocol):
    """How factors move. A search holds its settings; its state is the factors it is given and gives back."""

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        """The factors before the first gradient."""

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        """The images plus the perturbation the factors stand for, not yet clamped, (n, c, h, w)."""

    def final(self, factors: Factors, problem: Problem) -> Factors:
        """Factors whose plain product is that perturbation."""

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        """What of gradient i, taken at the clamped images `shown`, the search wants to follow."""

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        """The factors after gradient i, of length `size` (n,); zero where it is dead."""


@runtime_checkable
class Certified(Protocol):
    """A search that can say how far from a stationary point it is."""

    def gap(self, factors: Factors, gradient: Tensor, problem: Problem) -> Tensor:
        """(n,), zero at a stationary point."""


@dataclass
class Ledger:
    """The best iterate of every image so far, and what it cost."""

    factors: Factors
    margin: Tensor  # -inf until an oracle has judged the image
    forwards: Tensor
    gradients: Tensor
    doubtful: Tensor
    gap: Tensor  # the smallest one seen, infinite where the search knows none

    @classmethod
    def open(cls, factors: Factors) -> Ledger:
        n, device = len(factors.left), factors.left.device
        blank = torch.zeros(n, dtype=torch.long, device=device)
        unknown = torch.full((n,), -torch.inf, dtype=factors.left.dtype, device=device)
        return cls(factors, unknown, blank, blank.clone(), blank.bool(), -unknown)

    def note(self, rows: Tensor | None, factors: Factors, margin: Tensor | None) -> None:
        """Keep the iterates, of some rows or (None) of all, that beat the best so far; unjudged ones take its place."""
        known = self.margin if rows is None else self.margin[rows]
        unjudged = known == -torch.inf
        better = unjudged if margin is None else (margin > known) | (unjudged & ~margin.isnan())
        kept = self.factors if rows is None else self.factors.rows(rows)
        factors = chosen_of(better, factors, kept)
        margin = known if margin is None else torch.where(better, margin.to(known.dtype), known)
        if rows is None:
            self.factors, self.margin = factors, margin
        else:
            pairs = zip(factors, self.factors, strict=True)
            self.factors = Factors(*(old.index_put((rows,), new) for new, old in pairs))
            self.margin = self.margin.index_put((rows,), margin)

    def charge(self, rows: Tensor | None, forwards: int, gradients: int, doubtful: Tensor | None = None) -> None:
        """Book what images cost that have come to their end."""
        at = slice(None) if rows is None else rows
        self.forwards[at] += forwards
        self.gradients[at] += gradients
        if doubtful is not None:
            self.doubtful[at] |= doubtful

    def certify(self, rows: Tensor | None, gap: Tensor) -> None:
        """Keep the smallest gap of every image."""
        if rows is None:
            self.gap = torch.minimum(self.gap, gap)
        else:
            self.gap = self.gap.index_put((rows,), torch.minimum(self.gap[rows], gap))

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
    tracks: bool = True  # the best iterate is kept, not the last
    decay: float | None = None
    watch: Watch | None = None
    outer: Callable[[], AbstractContextManager[object]] = nullcontext  # the caller's autocast, for the oracle alone
    lower: Callable[[], AbstractContextManager[object]] = nullcontext  # half precision, for gradients alone

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        with self.outer(), self.lower():
            return self.oracle.gradient(x, y, loss)

    def judge(self, x: Tensor, y: Tensor) -> Tensor | None:
        with self.outer():
            return self.oracle.judge(x, y)

    def shown(self, moved: Tensor, problem: Problem) -> Tensor:
        """What the oracle sees: clamped in place, in the dtype of the caller's images."""
        return clamp_(moved, problem.box).to(self.dtype)


def ascend(climb: Climb, problem: Problem, factors: Factors, ledger: Ledger, rows: Tensor | None = None) -> None:
    """Climb one start to its end and note its best iterates; `rows` are the images' in the ledger, None for all."""
    momentum: Tensor | None = None
    forwards = 0
    doubtful = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)
    for i, loss in enumerate(climb.losses):
        shown = climb.shown(perturbed(climb.search, factors, problem), problem)
        judged = climb.gradient(shown, problem.y, loss)
        margin, forwards = judged.margin, forwards + 1
        if margin is None and climb.early_stop:
            margin, forwards = climb.judge(shown, problem.y), forwards + 1
        if climb.tracks and margin is not None:
            ledger.note(rows, factors, margin)
        if climb.watch is not None:
            climb.watch(i, judged.gradient, shown, problem.y)
        gradient = judged.gradient.to(factors.left.dtype).contiguous()
        gradient = climb.search.admissible(i, gradient, shown, factors, problem)
        gradient = gradient if problem.mask is None else gradient * problem.mask
        size = length(gradient)
        dead = ~(torch.isfinite(size) & (size > 0))
        gone = margin > 0 if climb.early_stop and margin is not None else torch.zeros_like(dead)
        some_dead, some_gone = torch.stack([dead.any(), gone.any()]).tolist()  # the one time a device is waited for
        doubtful = _either(doubtful | dead, judged.doubtful)
        if some_dead:
            gradient, size = gradient.masked_fill(per_image(dead), 0.0), size.masked_fill(dead, 0.0)
        if isinstance(climb.search, Certified):
            ledger.certify(rows, torch.where(dead, torch.inf, climb.search.gap(factors, gradient, problem)))
        if climb.decay is not None:
            momentum = _momentum(momentum, gradient, climb.decay)
            gradient, size = momentum, length(momentum)
        if some_gone and margin is not None:
            left = ~gone
            rows = torch.arange(len(gone), device=gone.device) if rows is None else rows
            ledger.note(rows[gone], factors.rows(gone), margin[gone])
            ledger.charge(rows[gone], forwards, i + 1, doubtful[gone])
            rows, problem, factors, doubtful = rows[left], problem.rows(left), factors.rows(left), doubtful[left]
            gradient, size, dead = gradient[left], size[left], dead[left]
            momentum = None if momentum is None else momentum[left]
            if not len(rows):
                return
        moved = climb.search.step(i, factors, gradient, size, problem)
        factors = chosen_of(dead, factors, moved) if some_dead else moved
    last = climb.shown(perturbed(climb.search, factors, problem), problem)
    margin = climb.judge(last, problem.y)
    ledger.note(rows, factors, margin)
    doubtful = _either(doubtful, None if margin is None else margin.isnan())
    ledger.charge(rows, forwards + 1, len(climb.losses), doubtful)


def perturbed(search: Search, factors: Factors, problem: Problem) -> Tensor:
    """The images plus the perturbation; with a mask it is zero outside, and inside as long as it was on the whole."""
    moved = search.moved(factors, problem)
    if problem.mask is None:
        return moved
    delta = moved - problem.x
    kept = delta * problem.mask
    if not problem.ball.refills:
        return problem.x + kept
    stretch = length(delta) / length(kept).clamp_min(1e-30)
    return problem.x + kept * per_image(stretch)


def chosen_of(where: Tensor, these: Factors, those: Factors) -> Factors:
    """`these` factors for the images where it holds, `those` for the others."""
    return Factors(*(torch.where(per_image(where), a, b) for a, b in zip(these, those, strict=True)))


def _either(this: Tensor, that: Tensor | None) -> Tensor:
    return this if that is None else this | that


def _momentum(past: Tensor | None, gradient: Tensor, decay: float) -> Tensor:
    """The momentum iterative method's average of gradients of unit l1 norm (Dong et al. 2018), as ART has it."""
    unit = gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-30)
    return unit if past is None else decay * past + unit
