"""What an attack returns, and how it is read off the ledger."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.balls import length
from art_lowrank.attack.exact import exact, tail_of
from art_lowrank.attack.factors import Factors, identity
from art_lowrank.attack.loop import Certified, Climb, Ledger, perturbed
from art_lowrank.attack.options import Options
from art_lowrank.attack.precision import Disputed
from art_lowrank.attack.start import Problem

ROUNDING = 4  # float steps by which an image may differ from images plus factors
HELD = 1e-3  # exact_rank: the largest `tail` that counts as rank r


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
    rank_held: Tensor  # bool: box and mask changed nothing, so that rank and factors hold; exact_rank: `tail` <= 1e-3
    margin: Tensor  # best logit that reaches the goal minus best that does not; -inf where nothing judged the image
    loss: str  # the loss that was climbed
    attack: str  # "lowrank-pgd[power]" or "lora-pgd[paper]"
    seed: int  # the seed used, also where None was given
    tail: Tensor | None = None  # exact_rank: singular value r + 1 over the first, the largest of the channels
    gap: Tensor | None = None  # Frank-Wolfe: the smallest duality gap seen, in the units of the loss
    disputed: Disputed | None = None  # half precision: what it claimed to have broken, and what float32 refuted

    def __repr__(self) -> str:
        broken, dead = int(self.success.sum()), int(self.dead.sum())
        remarks = [f"{self.attack}, {len(self.x)} images, {broken} broken, {dead} dead, loss {self.loss!r}"]
        if self.tail is not None:
            remarks.append(f"rank held on {int(self.rank_held.sum())}")
        if self.disputed is not None:
            remarks.append(f"{int(self.disputed.refuted.sum())} of {int(self.disputed.claimed.sum())} claims refuted")
        return f"Attacked({', '.join(remarks)})"

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


def result_of(
    climb: Climb,
    ledger: Ledger,
    problem: Problem,
    x: Tensor,
    rank: int,
    options: Options,
    disputed: Disputed | None,
    attack: str,
    seed: int,
) -> Attacked:
    """The best iterates as images within the budget; judged again where the last rounding changed them."""
    unclamped = perturbed(climb.search, ledger.factors, problem)
    factors, delta = _masked(climb.search.final(ledger.factors, problem), unclamped - problem.x, problem)
    full = rank == min(x.shape[2:])
    if options.exact_rank and not full:
        factors = exact(delta, rank, problem)
        delta = factors.dense()
    moved, changed = problem.ball.fit(x, delta, problem.eps, problem.box)
    if options.exact_rank and full:
        factors = identity(moved.to(problem.x.dtype) - problem.x)
    _judge_again(climb, ledger, problem, moved, changed | options.exact_rank)
    held, tail = _rank_held(moved, problem.x + factors.dense(), problem), None
    if options.exact_rank:
        tail = tail_of(moved.to(problem.x.dtype) - problem.x, rank)
        held = tail <= HELD
    return Attacked(
        x=moved,
        factors=factors,
        success=ledger.broken,
        queries=Queries(ledger.forwards, ledger.gradients),
        dead=ledger.doubtful & ~ledger.broken,
        rank_held=held,
        margin=ledger.margin,
        loss=options.climbed,
        attack=attack,
        seed=seed,
        tail=tail,
        gap=ledger.gap if isinstance(climb.search, Certified) else None,
        disputed=disputed,
    )


def _masked(factors: Factors, delta: Tensor, problem: Problem) -> tuple[Factors, Tensor]:
    """The factors as long as the perturbation is on the mask."""
    if problem.mask is None or not problem.ball.refills:
        return factors, delta
    return factors.scaled(length(delta) / length(factors.dense() * problem.mask).clamp_min(1e-30)), delta


def _judge_again(climb: Climb, ledger: Ledger, problem: Problem, moved: Tensor, changed: Tensor) -> None:
    if bool(changed.any()):
        rows = changed.nonzero().flatten()
        margin = climb.judge(moved[rows], problem.y[rows])
        ledger.forwards[rows] += 1
        if margin is not None:
            ledger.margin = ledger.margin.index_put((rows,), margin.to(ledger.margin.dtype))


def _rank_held(moved: Tensor, promised: Tensor, problem: Problem) -> Tensor:
    """Where neither box nor mask (unless it is all ones) nor coarse rounding came between factors and images."""
    slack = ROUNDING * torch.finfo(promised.dtype).eps * promised.abs().amax((1, 2, 3), keepdim=True)
    held = ((moved - promised).abs() <= slack).flatten(1).all(1)
    return held if problem.mask is None else held & (problem.mask == 1).flatten(1).all(1)


def warn_of_dead(dead: Tensor, stacklevel: int) -> None:
    """One warning with the count, at the caller's line."""
    if bool(dead.any()):
        warnings.warn(
            f"{int(dead.sum())} of {len(dead)} images were not broken, but a gradient was zero or not finite, or the "
            "model returned NaN or probabilities instead of logits: see `.dead`; do not count them as robust",
            stacklevel=stacklevel,
        )
