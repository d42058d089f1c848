"""From settings to a search and a ball, and what tables call them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from art_lowrank.attack.alternating import Alternating
from art_lowrank.attack.budget import Budgeted
from art_lowrank.attack.dense import Dense
from art_lowrank.attack.frank_wolfe import FrankWolfe
from art_lowrank.attack.latent import ClippedLatent
from art_lowrank.attack.loop import Search
from art_lowrank.attack.norms import L2, Ball, GroupNuclear, Linf, Nuclear
from art_lowrank.attack.nuclear import NuclearPower
from art_lowrank.attack.options import Options
from art_lowrank.attack.paper import Paper
from art_lowrank.attack.pattern import Pattern
from art_lowrank.attack.power import FIRST_STEP, Power

SWITCH = 5  # l_inf: patterns up to a rank of min(h, w) / 5, alternating projections above
TILES = 8  # group-nuclear: tiles along the shorter side, where no size is given


def ball_of(options: Options, x: Tensor) -> Ball:
    """The set of the settings."""
    if options.ball == "group-nuc":
        return GroupNuclear(options.tile or max(1, min(x.shape[2:]) // TILES))
    balls: dict[str, Ball] = {"2": L2(), "inf": Linf(), "nuc": Nuclear()}
    return balls[options.ball]


def resolved(options: Options, rank: int, x: Tensor) -> str:
    """The method's own name: what "power" means depends on norm and rank."""
    full = rank == min(x.shape[2:])
    if options.ball == "group-nuc":
        return "frank-wolfe"
    if options.method != "power":
        return options.method
    if options.ball == "nuc":
        return "nuclear"
    if full:
        return "dense"
    if options.ball == "inf":
        return "pattern" if rank * SWITCH <= min(x.shape[2:]) else "alternating"
    return "power"


def name_of(method: str, options: Options) -> str:
    """What records and tables call the attack."""
    if method == "paper":
        return "lora-pgd[paper]"
    return f"lowrank-pgd[{'power' if options.ball == '2' else method}]"


def search_of(method: str, options: Options, seed: int, rank: int, x: Tensor) -> Search:
    """The search behind a resolved name."""
    full = rank == min(x.shape[2:])
    given: dict[str, Any] = {} if options.first_step is None else {"peak": options.first_step}
    search: Search
    match method:
        case "paper":
            search = Paper(rank, seed, len(x))
        case "frank-wolfe":
            search = FrankWolfe(None if full else rank, options.steps, seed)
        case "clipped-latent":
            search = ClippedLatent(Power(rank, options.steps, seed, options.first_step or FIRST_STEP))
        case "pattern":
            search = Pattern(rank, options.steps, seed, **given)
        case "alternating":
            search = Alternating(rank, options.steps, seed, **given)
        case "nuclear":
            search = NuclearPower(rank, options.steps, seed, **given)
        case "dense":
            search = Dense(options.steps, seed, **given)
        case _:
            search = Power(rank, options.steps, seed, **given)
    return Budgeted(search) if options.use_budget else search
