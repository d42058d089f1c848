"""Who stands before whom: places that chance does not explain, and how far an attack is from the strongest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.rows import Row
from art_lowrank.statistics import Interval, mcnemar, paired_difference

SURE = 0.05  # p-value below which a difference is not called noise


class Distance(NamedTuple):
    """How two attacks, or models, differ on the same images."""

    points: Interval
    p: float

    @property
    def noise(self) -> bool:
        """Whether chance explains it."""
        return self.p >= SURE

    def __str__(self) -> str:
        """The difference, and whether it is one."""
        if self.points == (0, 0, 0):
            return "the same"
        words = "inside the noise, " if self.noise else ""
        points = self.points.points() if np.isfinite(self.points).all() else f"{100 * self.points.value:+.1f} points"
        return f"{points} ({words}{p_text(self.p)})"


class Standing(NamedTuple):
    """Where a model stands, or why it stands nowhere."""

    place: str  # "" where it has none
    behind: Distance | None  # from the first, p-value raised for all pairs
    why: str = ""


@dataclass(frozen=True)
class Board:
    """A leaderboard: entries of one data set and threat; the most robust first, doubtful models after all others."""

    data: str
    threat: str
    entries: tuple[Entry, ...]
    standings: tuple[Standing, ...]

    @property
    def title(self) -> str:
        return f"{self.data}, {self.threat}" if self.threat else self.data


def p_text(p: float) -> str:
    """A p-value, the smallest ones as small."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def boards(entries: Sequence[Entry]) -> Iterator[Board]:
    """One for every data set and threat, in the order they were evaluated."""
    for data, threat in dict.fromkeys((entry.data, entry.threat) for entry in entries):
        some = [entry for entry in entries if (entry.data, entry.threat) == (data, threat)]
        some.sort(key=_order)
        yield Board(data, threat, tuple(some), tuple(standings(some)))


def _order(entry: Entry) -> tuple[int, float]:
    if entry.worst is None:
        return 2, 0.0
    return int(bool(entry.clean.doubts)), -entry.worst.accuracy.value


def standings(entries: Sequence[Entry]) -> Iterator[Standing]:
    """Of every entry 1 and how many models are better for sure.

    For sure: McNemar's exact test on the same images, all pairs together at 5 % by Holm's method.
    """
    usual = _usual(entries)
    reasons = [_apart(entry, usual) for entry in entries]
    ranked = [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]
    robust = np.stack([entry.worst.robust for entry in ranked if entry.worst is not None]) if ranked else None
    p, better = pairs_of(robust) if robust is not None else (None, None)
    places = iter(range(len(ranked)))
    for entry, reason in zip(entries, reasons, strict=True):
        if reason or p is None or better is None:
            yield Standing("", None, reason)
            continue
        at = next(places)
        assert entry.worst is not None
        assert ranked[0].worst is not None
        points = paired_difference(entry.worst.robust, ranked[0].worst.robust)
        yield Standing(str(1 + int(better[:, at].sum())), Distance(points, float(p[at, 0])) if at else None)


def _usual(entries: Sequence[Entry]) -> Entry | None:
    """One of those that met the same attacks on the same images as most; of several, as those that met more."""
    sound = [entry for entry in entries if entry.worst is not None and not entry.clean.doubts]
    counts = Counter((entry.clean.cover, _met(entry)) for entry in sound)
    return max(sound, key=lambda e: (counts[e.clean.cover, _met(e)], len(e.counted), len(e.clean.robust)), default=None)


def _apart(entry: Entry, usual: Entry | None) -> str:
    """Why a model cannot be compared with the others, if so."""
    if entry.worst is None:
        return "no worst case"
    if entry.clean.doubts or usual is None:
        return "doubtful model"
    if entry.clean.cover != usual.clean.cover:
        return "other images"
    return "" if _met(entry) == _met(usual) else "other attacks"


def _met(entry: Entry) -> frozenset[tuple[str, int | None, int]]:
    return frozenset((row.attack, row.seed, row.after) for row in entry.counted)


def pairs_of(robust: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Of (models, images) matrices (i, j): p-values of all pairs by Holm, and whether i is better than j for sure."""
    held = robust.astype(np.float64)
    only = held @ (1 - held).T  # images that i holds and j does not
    upper = np.triu_indices(len(held), 1)
    fewer, differ = np.minimum(only, only.T)[upper].astype(np.int64), (only + only.T)[upper].astype(np.int64)
    p = np.ones_like(only)
    p[upper] = holm(np.minimum(1.0, 2 * special.bdtr(fewer, differ, 0.5)))
    p = np.minimum(p, p.T)
    return p, (p < SURE) & (only > only.T)


def holm(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values of many tests, made larger so that 5 % bounds the chance of one false finding among all."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    found = np.empty_like(p)
    found[order] = np.minimum(1.0, raised)
    return found


def strongest(entry: Entry) -> Row | None:
    """The attack that leaves fewest images; the first of several."""
    return min(entry.counted, key=lambda row: int(row.robust.sum()), default=None)


def distance(one: Row, other: Row) -> Distance | None:
    """one - other on the same images, or None where they are not the same."""
    if one.cover != other.cover or len(one.robust) == 0:
        return None
    return Distance(paired_difference(one.robust, other.robust), mcnemar(one.robust, other.robust))
