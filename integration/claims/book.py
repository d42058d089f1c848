"""Records found by the trial that asked for them, differences between two of them, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from from_peers import number
from trials import KIND, Trial

from art_lowrank.record import Record, unpack
from art_lowrank.statistics import Interval, mean_paired_difference, paired_difference, wilson

Flags: TypeAlias = npt.NDArray[np.float64]  # (n,) of 0 and 1
ROUNDING = 1e-9  # of differences of shares


class Verdict(NamedTuple):
    target: str
    measured: str
    interval: str
    word: str  # "met", "missed", "reported" (nothing was promised) or "not measured"


class Missing(Exception):
    """A trial without a record."""


class Book:
    """The last record of every trial."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = {record.id: record for record in records if record.kind == KIND}

    def record(self, trial: Trial) -> Record:
        found = self.records.get(trial.asked.id)
        if found is None:
            raise Missing(f"{trial.model}, {trial.attack} {dict(trial.settings)}, n = {trial.n}")
        return found

    def number(self, trial: Trial, name: str) -> float:
        return number(self.record(trial).values[name])

    def flags(self, trial: Trial, name: str) -> Flags:
        record = self.record(trial)
        return np.array(unpack(str(record.values[name]), record.n), dtype=np.float64)

    def robust(self, trial: Trial, at: str = "") -> Flags:
        """1 where the net stayed right; `at` is the rank or radius of a curve."""
        if not at:
            return 1 - self.flags(trial, "broken")
        record = self.record(trial)
        broken = record.values["broken"]
        assert isinstance(broken, dict)
        return 1 - np.array(unpack(broken[at], record.n), dtype=np.float64)

    def accuracy(self, trial: Trial, at: str = "") -> float:
        return float(self.robust(trial, at).mean())

    def gradients(self, trial: Trial) -> Interval:
        """Mean gradients an image."""
        found = self.record(trial).values["gradients"]
        assert isinstance(found, list)
        return Interval(*map(number, found))

    def difference(self, ours: Trial, other: Trial) -> Interval:
        """Robust accuracy under ours less that under the other, on the same images: negative where ours is stronger."""
        return paired_difference(self.robust(ours), self.robust(other))

    def mean_difference(self, pairs: Iterable[tuple[Trial, Trial]]) -> Interval:
        return mean_paired_difference([(self.robust(ours), self.robust(other)) for ours, other in pairs])

    def share(self, trial: Trial, name: str) -> Interval:
        flags = self.flags(trial, name)
        return wilson(int(flags.sum()), len(flags))


def judged(target: str, judge: Callable[[], tuple[str, str, bool | None]]) -> Verdict:
    """A verdict from what the judge says: measured value, interval, met (None: nothing was promised)."""
    try:
        measured, interval, met = judge()
    except Missing as missing:
        return Verdict(target, f"no record: {missing}", "", "not measured")
    return Verdict(target, measured, interval, {True: "met", False: "missed", None: "reported"}[met])


def points(difference: Interval) -> tuple[str, str]:
    """A difference in points, and its interval."""
    text, interval = difference.points(2).split(" [")
    return text, f"[{interval}"


def percent(share: Interval) -> tuple[str, str]:
    """A share in percent, and its interval."""
    text, interval = share.percent().split(" [")
    return text, f"[{interval}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; numbers to the right."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]
