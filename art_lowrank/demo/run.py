"""The demo: the bare evaluation of the built-in nets, with torchattacks where it is installed, and its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from art_lowrank.evaluate.command import show
from art_lowrank.evaluate.plan import DIGITS, Plan, usual_attacks
from art_lowrank.evaluate.report.command import Asked, report
from art_lowrank.evaluate.run import evaluate

EPS = 0.5
PGDL2 = f"torchattacks:PGDL2[steps=20,alpha={EPS / 5},random_start=false]"


def main(out: Path, seed: int, say: Callable[[str], Any] = print, verbose: bool = True) -> None:
    """Evaluate, print the table, write the report."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nets this small only lose by more, ten times over on a busy machine
    try:
        _run(out, seed, say, verbose)
    finally:
        torch.set_num_threads(threads)


def _run(out: Path, seed: int, say: Callable[[str], Any], verbose: bool) -> None:
    started = time.perf_counter()
    attacks = usual_attacks("L2", EPS)
    if find_spec("torchattacks") is not None:
        attacks = (*attacks[:-1], PGDL2, attacks[-1])
    say("Three small nets for handwritten digits of 8 x 8: trained on clean images, on attacked ones, and the same")
    say("with low-rank weights. How many of 500 test images hold against each attack?")
    show(evaluate(Plan(models=DIGITS, attacks=attacks, eps=EPS, seeds=(seed,)), out, verbose=verbose), out, say)
    if find_spec("torchattacks") is None:
        say("torchattacks is not installed, so its part is left out: pip install 'art-lowrank[torchattacks]'")
    report(Asked(out), say)
    say(f"Done in {time.perf_counter() - started:.0f} s.")
