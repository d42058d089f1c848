"""`lowrank_pgd`: the attack for plain torch, and `run`, which the hosts call with their own oracle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box, clamp, length, per_image, placed
from art_lowrank.attack.dense import Dense
from art_lowrank.attack.factors import Factors, fitted, resolve_rank, truncated
from art_lowrank.attack.loop import Climb, Ledger, Search, Watch, ascend
from art_lowrank.attack.losses import ce, schedule
from art_lowrank.attack.options import Options, amounts, check_images, check_labels, spread_mask
from art_lowrank.attack.oracle import ModelOracle, Oracle, autocast_of, evaluating, sees_batch
from art_lowrank.attack.paper import Paper
from art_lowrank.attack.power import Power
from art_lowrank.attack.result import Attacked, result_of, warn_of_dead
from art_lowrank.attack.start import Problem


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
    step_size   length of every step of `power` and of rank "full"; None for the schedule 4 eps (1 - i / steps)
    decay       momentum of the gradients; None for none
    """
    given = dict(locals())
    for name in ("model", "x", "y"):
        del given[name]
    options = Options(**given)
    if options.loss == "estimator":
        raise ValueError(
            "loss='estimator' is the loss of an ART estimator; a torch model has none, use loss='auto' or 'ce'"
        )
    check_images(x, options.clip)
    check_labels(y, len(x))
    with evaluating(model):
        attacked = run(ModelOracle(model, targeted), x, y, options, batch_bound=sees_batch(model))
    warn_of_dead(attacked.dead, stacklevel=3)
    return attacked


def run(
    oracle: Oracle, x: Tensor, y: Tensor, options: Options, *, batch_bound: bool = False, watch: Watch | None = None
) -> Attacked:
    """Attack checked images through any oracle. `batch_bound`: results depend on the batch, so none may leave it."""
    outer = autocast_of(x.device.type)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x, y = (t.clone() if t.is_inference() else t.detach() for t in (x, y))
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
            outer=outer,
        )
        ledger = _climb_all(climb, problem, options, rank)
        return result_of(climb, ledger, problem, x, options, seed)


def _problem(x: Tensor, y: Tensor, options: Options) -> Problem:
    """The caller's tensors in float32 or wider, every setting spread over the images."""
    wide = torch.promote_types(x.dtype, torch.float32)
    eps = amounts("eps", options.eps, x, wide)
    step_size = None if options.step_size is None else amounts("step_size", options.step_size, x, wide)
    mask = None if options.mask is None else spread_mask(options.mask, x).to(wide)
    y = y.to(x.device) if y.is_floating_point() else y.to(x.device, torch.long)
    x = x.to(wide).contiguous()
    return Problem(x, y, eps, step_size, mask, placed(options.clip, x))


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
    """The factors to start from: the caller's, the SVD of one full-rank step (warm-up), or None: the search's own."""
    if isinstance(init, Factors):
        return fitted(init, problem.x, rank)
    if init != "warm-up" or not len(problem.x):
        return None
    gradient = climb.gradient(problem.x.to(climb.dtype), problem.y, ce).gradient.to(problem.x.dtype)
    pace = per_image(problem.eps / length(gradient).clamp_min(1e-30))
    return truncated(clamp(problem.x + pace * gradient, problem.box) - problem.x, rank)
