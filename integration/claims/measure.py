"""Runs a trial and measures what it returned: with float64, by the net's own answer, not by the attack's claims."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
from from_peers import SOURCE, source
from precision_cost import cost_values
from torch import Tensor, nn
from trials import SEED, Trial

from art_lowrank import Attacked, Curve, eps_curve, lowrank_pgd, rank_curve, record
from art_lowrank.attack.alternating import Alternating
from art_lowrank.record import JSON, Record
from art_lowrank.spectra import nuclear_norm, perturbation_nuclear_norm, tail
from art_lowrank.statistics import mean_interval

Settings: TypeAlias = Mapping[str, Any]
BATCH = 250
DIGEST = source()  # now: the files may change while trials run
TAILS = (1e-2, 1e-3)  # of which the share of images below is recorded


def measured(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> Record:
    """The record with results."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*images were not broken.*")  # their number is recorded
        values = MEASURES[trial.attack](model, x, y, trial.settings)
    return replace(
        trial.asked,
        values={**values, "weights": weights(model)},
        volatile={"process_seconds": time.process_time() - started, "threads": torch.get_num_threads()},
        versions={**record.versions("torch"), SOURCE: DIGEST},
    )


def weights(model: nn.Module) -> str:
    """Digest of a net: training one anew may round differently on another machine."""
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()[:12]


def in_batches(attack: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> Any:
    """The attack's results on consecutive batches as one."""
    batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
    parts = [attack(model, images, labels, seed=SEED, **settings) for images, labels in batches]
    return type(parts[0]).joined(parts)


def of_attack(attack: Callable[..., Attacked], model: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> JSON:
    """Outcomes, cost, budget, and what is left beyond the rank asked for."""
    found = in_batches(attack, model, x, y, settings)
    with torch.no_grad():
        broken = model(found.x).argmax(1) != y
    values = {**outcome(broken), **bounds(found, x, settings, settings["eps"]), "dead": int(found.dead.sum())}
    if isinstance(settings["rank"], int):
        values.update(spectrum(found, x, settings["rank"]))
    if found.gap is not None:
        values["median_gap"] = float(found.gap.median())
    if found.disputed is not None:
        values.update(claimed=int(found.disputed.claimed.sum()), refuted=int(found.disputed.refuted.sum()))
    return values


def of_curve(attack: Callable[..., Curve], model: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> JSON:
    """Outcomes at every rank or radius; the length is that of the image returned, against its own radius."""
    found = in_batches(attack, model, x, y, settings)
    with torch.no_grad():
        errs = model(found.x).argmax(1) != y
    radius = settings["eps"]
    if found.along == "eps":
        radius = found.breaking.clamp(found.values[0], found.values[-1]).double()
    return {
        "broken": {f"{value:g}": packed((found.breaking <= value) & errs) for value in found.values},
        "unconfirmed": int(((found.breaking < torch.inf) & ~errs).sum()),
        "effective_rank": found.effective_rank if found.along == "rank" else None,
        "dead": int(found.dead.sum()),
        **bounds(found, x, settings, radius),
    }


def outcome(broken: Tensor) -> dict[str, JSON]:
    return {
        "broken": packed(broken),
        "broken_count": int(broken.sum()),
        "robust_accuracy": 1 - float(broken.double().mean()),
    }


def bounds(found: Attacked | Curve, x: Tensor, settings: Settings, radius: float | Tensor) -> dict[str, JSON]:
    """Box, norm over radius, gradients an image."""
    share = norms(found.x.double() - x.double(), settings) / radius
    low, high = found.x.aminmax()
    gradients = mean_interval(found.queries.gradients.double())
    return {
        "in_box": bool(low >= 0) and bool(high <= 1),
        "excess": float(share.max()) - 1,
        "mean_share_of_radius": float(share.mean()),
        "gradients": list(gradients),
    }


def norms(delta: Tensor, settings: Settings) -> Tensor:
    """The norm of the settings, written apart from the attack's own, (n,)."""
    match settings["norm"]:
        case "inf":
            return delta.abs().flatten(1).amax(1)
        case "nuc":
            return perturbation_nuclear_norm(delta)
        case "group-nuc":
            side = settings["tile"]
            blocks = delta.unfold(2, side, side).unfold(3, side, side)  # (n, c, rows, columns, side, side)
            stacked: Tensor = nuclear_norm(blocks.permute(0, 2, 3, 1, 4, 5).flatten(3, 4))
            return stacked.sum((1, 2))
    length: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3))
    return length


def spectrum(found: Attacked, x: Tensor, rank: int) -> dict[str, JSON]:
    """Singular value r + 1 over the first, the largest of the channels: of what is left after the box, and before."""
    left = tail(found.x.double() - x.double(), rank).amax(1)
    factors = found.factors.left.double() @ found.factors.right.double()
    applied = (x.double() + factors).clamp(0, 1)
    return {
        **{f"tail_{limit:g}": packed(left <= limit) for limit in TAILS},
        "median_tail": float(left.median()),
        "largest_tail_of_factors": float(tail(factors, rank).max()),
        "largest_miss_of_factors": float((applied - found.x.double()).abs().max()),  # of the images they stand for
    }


def packed(flags: Tensor) -> str:
    text: str = record.pack(flags.tolist())
    return text


def alternating(model: nn.Module, x: Tensor, y: Tensor, *, rounds: int, **settings: Any) -> Attacked:
    """Alternating projections with another number of rounds than the package's."""
    with patch("art_lowrank.attack.searches.Alternating", partial(Alternating, rounds=rounds)):
        return lowrank_pgd(model, x, y, method="alternating", **settings)


def scaled(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, l2_eps: float, **settings: Any
) -> Attacked:
    """The l2 attack's perturbation made as long in the nuclear norm as the radius `eps` allows, then clamped."""
    found = lowrank_pgd(model, x, y, eps=l2_eps, **settings)
    length = perturbation_nuclear_norm(found.factors.dense()).clamp_min(1e-30)
    factors = found.factors.scaled((eps / length).float())
    return replace(found, factors=factors, x=(x + factors.dense()).clamp(0, 1))


MEASURES: dict[str, Callable[[nn.Module, Tensor, Tensor, Settings], Any]] = {
    "lowrank_pgd": partial(of_attack, lowrank_pgd),
    "lowrank_pgd, rounds of alternating": partial(of_attack, alternating),
    "lowrank_pgd, scaled to the nuclear ball": partial(of_attack, scaled),
    "rank_curve": partial(of_curve, rank_curve),
    "eps_curve": partial(of_curve, eps_curve),
    "cost of lowrank_pgd": cost_values,
}
