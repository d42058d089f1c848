"""What a report says to a script: numbers below a bound, doubts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from art_lowrank.evaluate.report.summary import Summary
from art_lowrank.evaluate.rows import Entry, Row

NAMES = ("robust", "clean")


class Bound(NamedTuple):
    """A share that must be reached by every model."""

    name: str  # "robust", the worst case, or "clean"
    least: float


def bound_of(text: str) -> Bound:
    """Read `robust=0.45`."""
    name, equals, number = text.partition("=")
    try:
        least = float(number)
    except ValueError:
        least = -1.0
    if name.strip() not in NAMES or not equals or not 0 <= least <= 1:
        raise ValueError(f"{text!r} is no bound; give robust=0.45 or clean=0.9, a share between 0 and 1")
    return Bound(name.strip(), least)


def below(summary: Summary, bounds: Sequence[Bound]) -> Iterator[str]:
    """Every model that is below a bound, or has no number."""
    for bound in bounds:
        for entry in summary.entries:
            row = _row(entry, bound.name)
            where = f"{entry.model} on {entry.data}" + (f", {entry.threat}" if entry.threat else "")
            if row is None or row.error or not len(row.robust):
                yield f"{where}: there is no {bound.name} accuracy, wanted are {bound.least:g}"
            elif row.accuracy.value < bound.least:
                yield f"{where}: {bound.name} accuracy {row.accuracy.percent()} is below {100 * bound.least:g} %"


def _row(entry: Entry, name: str) -> Row | None:
    if name == "clean":
        return entry.clean
    return None if any(row.error for row in entry.rows) else entry.worst
