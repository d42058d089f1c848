"""`lowrank_pgd`: the attack for plain torch, and `run`, which the hosts call with their own oracle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box
from art_lowrank.attack.checks import check_images, check_labels
from art_lowrank.attack.factors import Factors, resolve_rank
from art_lowrank.attack.loop import Climb, Watch
from art_lowrank.attack.losses import schedule
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import ModelOracle, Oracle, autocast_of, evaluating, expecting, sees_batch
from art_lowrank.attack.precision import lowered, verified
from art_lowrank.attack.result import Attacked, result_of, warn_of_dead
from art_lowrank.attack.searches import ball_of, name_of, resolved, search_of
from art_lowrank.attack.stages import climb_all, try_rivals
from art_lowrank.attack.start import posed


def lowrank_pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    rank: int | float | str = 0.1,
    steps: int = 20,
    norm: float | str = 2,
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
    tile: int | None = None,
    use_budget: bool = False,
    thorough: bool = False,
    precision: str = "float32",
) -> Attacked:
    """Attack images with perturbations of low rank in every channel, inside a ball over all channels.

    model       an nn.Module (attacked in evaluation mode, left as it was) or any callable from images to logits
    x, y        images (n, c, h, w) and their class numbers (n,); with targeted=True the classes to be reached
    eps         radius of the ball: a number, or one an image; for l_inf anything that broadcasts to the images
    rank        a whole number, a share of min(h, w) such as 0.1, or "full": plain PGD with the same schedule
    steps       gradients an image; 20 is thorough, 10 fast, 4 or 5 enough for adversarial training
    norm        2, inf, "nuc" (sum of the singular values of all channels) or "group-nuc" (the same over square tiles)
    loss        "auto" (smooth margin, then margin), "margin", "smooth-margin", "ce" or "dlr"
    method      "power": ours, for every norm; "paper": LoRa-PGD as published (l2); for l_inf also "pattern",
                "alternating" and "clipped-latent" (not of low rank); for the nuclear norms "frank-wolfe"
    exact_rank  the perturbation that is left after the box has rank r too; see `rank_held` and `tail` of the result
    early_stop  broken images leave the batch; off for a model whose batch normalisation sees the batch, and with
                exact_rank, because an image counts as broken only after its rank is made exact
    seed        of the random sketch, the same for every image; None draws one and records it
    init        "lora" (a random sketch), "warm-up" (`paper`: the SVD of one full-rank step), or Factors to start from
    restarts    later ones start at random perturbations; the best iterate of all is kept
    clip        (lowest, highest) of the images, numbers or tensors, or None
    mask        where the perturbation may be non-zero, broadcastable to x
    step_size   length of every step; None for a schedule that falls linearly
    decay       momentum of the gradients; None for none
    tile        side of the tiles of "group-nuc"; None for an eighth of the shorter side
    use_budget  l2: scale every iterate until it is eps long *after* the box; for images on the bounds, such as MNIST
    thorough    early_stop, then the margin towards each of the two best other classes on what is left
    precision   "bf16" or "fp16": search under autocast, verify in float32, and attack again where the two disagree
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
    outer = autocast_of(x.device.type) if options.precision == "float32" else nullcontext  # else judged in float32
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x, y = (t.clone() if t.is_inference() else t.detach() for t in (x, y))
        rank, seed = resolve_rank(options.rank, *x.shape[2:]), options.drawn_seed()
        problem, method = posed(x, y, options, ball_of(options, x)), resolved(options, rank, x)
        climb = Climb(
            expecting(oracle, y),
            search_of(method, options, seed, rank, x),
            schedule(options.climbed, options.steps),
            (options.early_stop or options.thorough) and not batch_bound and not options.exact_rank,
            x.dtype,
            tracks=method != "paper",  # the published method returns its last iterate
            decay=options.decay,
            watch=watch,
            outer=outer,
        )
        fast = lowered(climb, options.precision, x.device.type)
        ledger = climb_all(fast, problem, options, rank)
        if options.thorough:
            search = search_of(method, replace(options, steps=options.steps // 2), seed + 1, rank, x)
            gap = ledger.gap  # of the loss asked for, not of those towards the rivals
            try_rivals(replace(fast, search=search), problem, ledger, options.steps // 2)
            ledger.gap = gap
        disputed = None if fast is climb else verified(climb, problem, ledger)
        return result_of(climb, ledger, problem, x, rank, options, disputed, name_of(method, options), seed)
