"""What is climbed one after the other: restarts, then (thorough) other target classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from art_lowrank.attack.balls import clamp, length, per_image
from art_lowrank.attack.factors import Factors, fitted, truncated
from art_lowrank.attack.loop import Climb, Ledger, ascend, perturbed
from art_lowrank.attack.losses import Loss, ce, towards
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import Judged, ModelOracle
from art_lowrank.attack.start import Problem

RIVALS = 2  # with half the steps each, survivors then take about the gradients that broken images have saved


def climb_all(climb: Climb, problem: Problem, options: Options, rank: int) -> Ledger:
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
    size = length(gradient)
    gradient = gradient.masked_fill(per_image(~torch.isfinite(size)), 0.0)  # of a broken model: no step
    pace = torch.where(torch.isfinite(size) & (size > 0), problem.eps / size, 0.0)
    return truncated(clamp(problem.x + per_image(pace) * gradient, problem.box) - problem.x, rank)


@dataclass(frozen=True)
class Towards:
    """An oracle whose labels are pairs (label, rival): it climbs towards the rival and is judged by the label."""

    oracle: ModelOracle

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        return self.oracle.gradient(x, y[:, 0], towards(y[:, 1]))

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        return self.oracle.judge(x, y[:, 0])


def try_rivals(climb: Climb, problem: Problem, ledger: Ledger, steps: int) -> None:
    """From a fresh start towards each of the best other classes of every image that still holds."""
    oracle = climb.oracle
    if not isinstance(oracle, ModelOracle) or not steps or not len(problem.x):
        return
    shown = climb.shown(perturbed(climb.search, ledger.factors, problem), problem)
    with climb.outer():
        rivals = oracle.rivals(shown, problem.y, RIVALS)
    ledger.forwards += 1
    climb = replace(climb, oracle=Towards(oracle), losses=[ce] * steps, watch=None)  # the losses only count the steps
    for rival in rivals.unbind(1):
        tried = ~ledger.broken if climb.early_stop else torch.ones_like(ledger.broken)
        rows = tried.nonzero().flatten()
        if not len(rows):
            return
        part = problem.rows(rows)
        part = part._replace(y=torch.stack([part.y, rival[rows]], 1))
        ascend(climb, part, climb.search.start(part, 0, None), ledger, rows)
