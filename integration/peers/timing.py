"""Ratios of process times that survive a noisy machine: interleaved repeats, median ratio, interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from cells import DIGEST, PACKAGES, SOURCE, number

from art_lowrank.record import JSON, Record, versions
from art_lowrank.statistics import Interval, median_ratio

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


def ratio_of(record: Record) -> Interval:
    return Interval(*(number(record.values[end]) for end in ("median_ratio", "low", "high")))


def line(text: str, ratio: Interval, median_limit: float | None, upper_limit: float | None) -> str:
    """The measured ratio beside its target, met or not."""
    limits = [(ratio.value, "median", median_limit), (ratio.high, "upper end", upper_limit)]
    wanted = [(value, name, limit) for value, name, limit in limits if limit is not None]
    met = all(value <= limit for value, _, limit in wanted)
    target = ", ".join(f"{name} <= {limit:g}" for _, name, limit in wanted)
    return f"{'met   ' if met else 'MISSED'} {text}: {ratio} ({target})"
