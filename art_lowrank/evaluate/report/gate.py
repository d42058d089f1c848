"""What a report says to a script: numbers below a bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.report.summary import Summary
from art_lowrank.evaluate.spec import nearest


class Bound(NamedTuple):
    """A share that must be reached by every model."""

    name: str  # "robust", the worst case, or "clean"
    least: float
    threat: str = ""  # for this one only


def bound_of(text: str) -> Bound:
    """Read `robust=0.45`, `robust[L2 0.5]=0.45`."""
    found = re.fullmatch(r"\s*(robust|clean)\s*(?:\[(.+)\])?\s*=\s*(\d*\.?\d+|\d+\.)\s*", text)
    least = float(found[3]) if found else -1.0
    if not found or not 0 <= least <= 1:
        raise ValueError(f"{text!r} is no bound; give robust=0.45, 'robust[L2 0.5]=0.45' or clean=0.9, a share up to 1")
    return Bound(found[1], least, (found[2] or "").strip())


def below(summary: Summary, bounds: Sequence[Bound]) -> list[str]:
    """Every model that is below a bound, or whose number is not known."""
    threats = {entry.threat for entry in summary.entries} - {""}
    for bound in bounds:
        if bound.threat and bound.threat not in threats:
            raise ValueError(f"{nearest(bound.threat, threats, 'ball')} (--fail-under)")
    return list(dict.fromkeys(_below(summary, bounds)))


def _below(summary: Summary, bounds: Sequence[Bound]) -> Iterator[str]:
    if summary.missing and bounds:
        yield f"{len(summary.missing)} cells are not finished"
    for bound in bounds:
        for entry in summary.entries:
            if bound.threat in ("", entry.threat) and (words := _words(entry, bound)):
                ball = f", {entry.threat}" if entry.threat and bound.name == "robust" else ""
                yield f"{entry.model} on {entry.data}{ball}: {words}"


def _words(entry: Entry, bound: Bound) -> str:
    lost = [row.attack for row in entry.rows if row not in entry.counted]
    row = entry.clean if bound.name == "clean" else entry.worst
    if bound.name == "robust" and lost:
        return f"robust accuracy is not known, {lost[0]} failed or saw other images ({100 * bound.least:g} % wanted)"
    if row is None or row.error or not len(row.robust):
        return f"no {bound.name} accuracy ({100 * bound.least:g} % wanted)"
    if row.accuracy.value < bound.least:
        return f"{bound.name} accuracy {row.accuracy.percent()} is below {100 * bound.least:g} %"
    return ""
