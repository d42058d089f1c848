"""`lowrank_pgd`: the attack for plain torch, and `run`, which the hosts call with their own oracle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box, clamp, length, nearest, per_image
from art_lowrank.attack.dense import Dense
from art_lowrank.attack.factors import Factors, fitted, resolve_rank, truncated
from art_lowrank.attack.loop import Climb, Ledger, Search, Watch, ascend, perturbed
from art_lowrank.attack.losses import ce, schedule
from art_lowrank.attack.oracle import ModelOracle, Oracle, evaluating, trains_batch_norm
from art_lowrank.attack.options import Options, amounts, check_images, check_labels, spread_mask
from art_lowrank.attack.paper import Paper
from art_lowrank.attack.power import Power
from art_lowrank.attack.start import Problem


class Queries(NamedTuple):
    """What every image cost, (n,) each: forward passes it took part in, and gradients among them."""

    forwards: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class Attacked:
    """What an attack returns. Tensors have one row an image."""

    x: Tensor  # the attacked images, in the dtype of the images given
    factors: Factors  # their perturbations before the box, float32 or wider
    success: Tensor  # bool: the goal is reached
    queries: Queries
    dead: Tensor  # bool: not broken, but a gradient was zero or not finite, or the outputs were no logits: trust no "robust"
    rank_held: Tensor  # bool: neither box nor mask changed the perturbation, so that its rank is that of the factors
    margin: Tensor  # best logit that reaches the goal minus best that does not; -inf where nothing judged the image
    loss: str  # the loss that was climbed
    attack: str  # "lowrank-pgd[power]" or "lora-pgd[paper]"
    seed: int  # the seed used, also where None was given

    @classmethod
    def joined(cls, parts: Sequence[Attacked]) -> Attacked:
        """The results of consecutive batches as one."""
        first = parts[0]
        values = {}
        for field in fields(cls):
            column = [getattr(part, field.name) for part in parts]
            if isinstance(column[0], Tensor):
                values[field.name] = torch.cat(column)
            elif isinstance(column[0], tuple):
                values[field.name] = type(column[0])(*(torch.cat(tensors) for tensors in zip(*column, strict=True)))
            else:
                values[field.name] = getattr(first, field.name)
        return cls(**values)


def lowrank_pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    rank: int | float | str = 0.1,
    steps: int = 20,
    norm: float = 2,
    loss: str = "auto",
    method: str = "power",
    targeted: bool = False,
    exact_rank: bool = False,
    early_stop: bool = False,
    seed: int | None = 0,
    init: str | Factors = "lora",
    restarts: int = 1,
    clip: Box = UNIT_BOX,
    mask: Tensor | None = None,
    step_size: float | Tensor | None = None,
    decay: float | None = None,
) -> Attacked:
    """Attack images with perturbations of low rank in every channel, inside the l2 ball over all channels.

    model       an nn.Module (attacked in evaluation mode, left as it was) or any callable from images to logits
    x, y        images (n, c, h, w) and their class numbers (n,); with targeted=True the classes to be reached
    eps         radius of the ball: a number, or one an image
    rank        a whole number, a share of min(h, w) such as 0.1, or "full": plain PGD with the same schedule
    steps       gradients an image; 20 is thorough, 10 fast, 4 or 5 enough for adversarial training
    loss        "auto" (smooth margin, then margin), "margin", "smooth-margin", "ce" or "dlr"
    method      "power" (ours) or "paper" (LoRa-PGD as published)
    early_stop  broken images leave the batch; off for a model whose batch normalisation sees the batch
    seed        of the random sketch, the same for every image; None draws one and records it
    init        "lora" (a random sketch), "warm-up" (`paper`: the SVD of one full-rank step), or Factors to start from
    restarts    later ones start at random perturbations; the best iterate of all is kept
    clip        (lowest, highest) of the images, numbers or tensors, or None
    mask        where the perturbation may be non-zero, broadcastable to x
    step_size   length of every step, for eps "full" and `power`; None for the schedule 4 eps (1 - i / steps)
    decay       momentum of the gradients; None for none
    """
    given = dict(locals())
    for name in ("model", "x", "y"):
        del given[name]
    options = Options(**given)
    if options.loss == "estimator":
        raise ValueError("loss='estimator' is the loss of an ART estimator; a torch model has none, use loss='auto' or 'ce'")
    check_images(x, options.clip)
    check_labels(y, len(x))
    with evaluating(model):
        return run(ModelOracle(model, targeted), x, y, options, batch_bound=trains_batch_norm(model))


def run(
    oracle: Oracle, x: Tensor, y: Tensor, options: Options, *, batch_bound: bool = False, watch: Watch | None = None
) -> Attacked:
    """Attack checked images through any oracle. `batch_bound`: their results depend on each other, so none may leave."""
    x = x.detach()
    with torch.inference_mode(False), torch.no_grad():
        problem = _problem(x, y, options)
        rank, seed = resolve_rank(options.rank, *x.shape[2:]), options.drawn_seed()
        climb = Climb(
            oracle,
            _search(options, seed, rank, x),
            schedule(options.climbed, options.steps),
            options.early_stop and not batch_bound,
            x.dtype,
            tracks=options.method == "power",  # the published method returns its last iterate
            decay=options.decay,
            watch=watch,
        )
        ledger = _climb_all(climb, problem, options, rank)
        return _result(climb, ledger, problem, x, options, seed)


def _problem(x: Tensor, y: Tensor, options: Options) -> Problem:
    """The caller's tensors in float32 or wider, every setting spread over the images; nothing of the caller's is changed."""
    wide = torch.promote_types(x.dtype, torch.float32)
    eps = amounts("eps", options.eps, x, wide)
    step_size = None if options.step_size is None else amounts("step_size", options.step_size, x, wide)
    mask = None if options.mask is None else spread_mask(options.mask, x).to(wide)
    return Problem(x.to(wide).contiguous(), y.to(x.device), eps, step_size, mask, options.clip)


def _search(options: Options, seed: int, rank: int, x: Tensor) -> Search:
    if options.method == "paper":
        return Paper(rank, seed, len(x))
    return Dense(options.steps, seed) if rank == min(x.shape[2:]) else Power(rank, options.steps, seed)


def _climb_all(climb: Climb, problem: Problem, options: Options, rank: int) -> Ledger:
    """Every restart in turn; with early_stop only the survivors of one go into the next."""
    init = _initial(climb, problem, options.init, rank)
    ledger = Ledger.open(climb.search.start(problem, 0, init))
    if options.init == "warm-up":
        ledger.charge(None, 1, 1)
    for restart in range(options.restarts if len(problem.x) else 0):
        rows = (~ledger.broken).nonzero().flatten() if climb.early_stop and restart else None
        if rows is not None and not len(rows):
            break
        part = problem if rows is None else problem.rows(rows)
        ascend(climb, part, climb.search.start(part, restart, None if restart else init), ledger, rows)
    return ledger


def _initial(climb: Climb, problem: Problem, init: str | Factors, rank: int) -> Factors | None:
    """The factors to start from: None for the search's own, the caller's, or the SVD of one full-rank step (warm-up)."""
    if isinstance(init, Factors):
        return fitted(init, problem.x, rank)
    if init != "warm-up" or not len(problem.x):
        return None
    gradient = climb.oracle.gradient(problem.x.to(climb.dtype), problem.y, ce).gradient.to(problem.x.dtype)
    pace = per_image(problem.eps / length(gradient).clamp_min(1e-30))
    return truncated(clamp(problem.x + pace * gradient, problem.box) - problem.x, rank)


def _result(climb: Climb, ledger: Ledger, problem: Problem, x: Tensor, options: Options, seed: int) -> Attacked:
    """The best iterates as images within the budget; judged again where the last rounding changed them."""
    factors = climb.search.final(ledger.factors, problem.eps)
    unclamped = perturbed(climb.search, ledger.factors, problem)
    delta = unclamped - problem.x
    if problem.mask is not None:
        factors = factors.scaled(length(delta) / length(factors.dense() * problem.mask).clamp_min(1e-30))
    moved, shortened = nearest(x, delta, problem.eps, problem.box)
    if bool(shortened.any()):
        changed = shortened.nonzero().flatten()
        margin = climb.oracle.judge(moved[changed], problem.y[changed])
        ledger.forwards[changed] += 1
        if margin is not None:
            ledger.margin = ledger.margin.index_put((changed,), margin.to(ledger.margin.dtype))
    dead = ledger.doubtful & ~ledger.broken
    _warn(dead)
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


def _warn(dead: Tensor) -> None:
    if bool(dead.any()):
        warnings.warn(
            f"{int(dead.sum())} of {len(dead)} images were not broken, but a gradient was zero or not finite, or the model "
            "returned NaN or probabilities instead of logits: they are in `.dead`, do not count them as robust",
            stacklevel=4,
        )
