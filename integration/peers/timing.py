"""Ratios of process times that survive a noisy machine: interleaved repeats, median ratio, interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from cells import DIGEST, PACKAGES
from facts import SOURCE

from art_lowrank.record import JSON, Record, versions
from art_lowrank.statistics import median_ratio

T = TypeVar("T")


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """The work, made to return the process time it took."""

    def timed() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return timed


def interleaved(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Every side once unmeasured, then in turn `repeats` times, each round starting at another side."""
    for side in sides.values():
        side()
    found: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(repeats):
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(sides[name]())
    return found


def ratio_record(
    kind: str,
    model: str,
    data: str,
    n: int,
    settings: Mapping[str, JSON],
    above: Sequence[float],
    below: Sequence[float],
) -> Record:
    """The ratio of two sides' seconds; the seconds themselves say nothing about another machine."""
    ratio = median_ratio(above, below)
    return Record(
        kind=kind,
        model=model,
        data=data,
        attack="lowrank-pgd[power]",
        seed=0,
        n=n,
        settings={"repeats": len(above), **settings},
        values={"median_ratio": ratio.value, "low": ratio.low, "high": ratio.high},
        volatile={"above": list(above), "below": list(below), "threads": torch.get_num_threads()},
        versions={**versions(*PACKAGES), SOURCE: DIGEST},
    )
