"""Search in half precision, judge in float32."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.loop import Climb, Ledger, ascend, perturbed
from art_lowrank.attack.oracle import ModelOracle
from art_lowrank.attack.start import Problem

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 2.0**10  # of the loss in float16, whose smallest number is 6e-8


class Disputed(NamedTuple):
    """What the half-precision search claimed to have broken, and which of that float32 did not confirm, (n,) each."""

    claimed: Tensor
    refuted: Tensor


def lowered(climb: Climb, precision: str, device: str) -> Climb:
    """The same climb with its gradients, and the margins that come with them, under autocast."""
    if precision == "float32":
        return climb
    oracle = climb.oracle
    if precision == "fp16" and isinstance(oracle, ModelOracle):
        oracle = replace(oracle, scale=SCALE)
    return replace(climb, oracle=oracle, lower=partial(torch.autocast, device, dtype=DTYPES[precision]))


def verified(climb: Climb, problem: Problem, ledger: Ledger) -> Disputed:
    """Every best iterate judged in float32; what was claimed and does not hold, or was doubtful, attacked again."""
    claimed = ledger.broken
    if not len(claimed):
        return Disputed(claimed, claimed)
    margin = climb.judge(climb.shown(perturbed(climb.search, ledger.factors, problem), problem), problem.y)
    ledger.forwards += 1
    if margin is not None:
        ledger.margin = margin.to(ledger.margin.dtype)
    refuted = claimed & ~ledger.broken
    again = refuted | (ledger.doubtful & ~ledger.broken)
    ledger.doubtful = ledger.doubtful & ~again
    rows = again.nonzero().flatten()
    if len(rows):
        part, climb = problem.rows(rows), replace(climb, watch=None)
        ascend(climb, part, climb.search.start(part, 0, None), ledger, rows)
    return Disputed(claimed, refuted)
