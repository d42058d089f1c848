"""What an attack returns, and how it is read off the ledger."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.balls import length, nearest
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.loop import Climb, Ledger, perturbed
from art_lowrank.attack.options import Options
from art_lowrank.attack.start import Problem


class Queries(NamedTuple):
    """What every image cost, (n,) each: forward passes it took part in, and gradients among them."""

    forwards: Tensor
    gradients: Tensor


@dataclass(frozen=True, repr=False)
class Attacked:
    """What an attack returns. Tensors have one row an image."""

    x: Tensor  # the attacked images, in the dtype of the images given
    factors: Factors  # their perturbations before the box, float32 or wider; a mask must be applied again
    success: Tensor  # bool: the goal is reached
    queries: Queries
    dead: Tensor  # bool: not broken, but a gradient was zero or not finite, or the outputs were no logits
    rank_held: Tensor  # bool: neither box nor mask changed the perturbation, so that its rank is that of the factors
    margin: Tensor  # best logit that reaches the goal minus best that does not; -inf where nothing judged the image
    loss: str  # the loss that was climbed
    attack: str  # "lowrank-pgd[power]" or "lora-pgd[paper]"
    seed: int  # the seed used, also where None was given

    def __repr__(self) -> str:
        broken, dead = int(self.success.sum()), int(self.dead.sum())
        return f"Attacked({self.attack}, {len(self.x)} images, {broken} broken, {dead} dead, loss {self.loss!r})"

    @classmethod
    def joined(cls, parts: Sequence[Attacked]) -> Attacked:
        """The results of consecutive batches as one."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        return cls(**{name: _joined(column) for name, column in columns.items()})


def _joined(column: list[Any]) -> Any:
    """Tensors end to end, tuples of tensors likewise; anything else is the same in every batch."""
    first = column[0]
    if isinstance(first, Tensor):
        return torch.cat(column)
    if isinstance(first, tuple):
        return type(first)(*map(torch.cat, zip(*column, strict=True)))
    return first


def result_of(climb: Climb, ledger: Ledger, problem: Problem, x: Tensor, options: Options, seed: int) -> Attacked:
    """The best iterates as images within the budget; judged again where the last rounding changed them."""
    factors = climb.search.final(ledger.factors, problem.eps)
    unclamped = perturbed(climb.search, ledger.factors, problem)
    delta = unclamped - problem.x
    if problem.mask is not None:
        factors = factors.scaled(length(delta) / length(factors.dense() * problem.mask).clamp_min(1e-30))
    moved, shortened = nearest(x, delta, problem.eps, problem.box)
    if bool(shortened.any()):
        changed = shortened.nonzero().flatten()
        margin = climb.judge(moved[changed], problem.y[changed])
        ledger.forwards[changed] += 1
        if margin is not None:
            ledger.margin = ledger.margin.index_put((changed,), margin.to(ledger.margin.dtype))
    dead = ledger.doubtful & ~ledger.broken
    return Attacked(
        x=moved,
        factors=factors,
        success=ledger.broken,
        queries=Queries(ledger.forwards, ledger.gradients),
        dead=dead,
        rank_held=_rank_held(moved, unclamped, problem),
        margin=ledger.margin,
        loss=options.climbed,
        attack=options.name,
        seed=seed,
    )


def _rank_held(moved: Tensor, unclamped: Tensor, problem: Problem) -> Tensor:
    """Where neither rounding nor box nor mask (unless it is all ones) came between the factors and the images."""
    held = (moved == unclamped).flatten(1).all(1)
    return held if problem.mask is None else held & (problem.mask == 1).flatten(1).all(1)


def warn_of_dead(dead: Tensor, stacklevel: int) -> None:
    """One warning with the count, at the caller's line."""
    if bool(dead.any()):
        warnings.warn(
            f"{int(dead.sum())} of {len(dead)} images were not broken, but a gradient was zero or not finite, or the "
            "model returned NaN or probabilities instead of logits: see `.dead`; do not count them as robust",
            stacklevel=stacklevel,
        )
