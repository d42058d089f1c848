"""Who stands before whom: places that chance does not explain, and how far an attack is from the strongest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from art_lowrank.evaluate.rows import Entry, Row
from art_lowrank.statistics import Interval, mcnemar, paired_difference

SURE = 0.05


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
        words = "inside the noise, " if self.noise else ""
        return f"{self.points.points()} ({words}{p_text(self.p)})"


@dataclass(frozen=True)
class Board:
    """A leaderboard: entries of one data set and threat, the most robust first."""

    data: str
    threat: str
    entries: tuple[Entry, ...]
    places: tuple[str, ...]  # of each entry; "" where it has no worst case or was run on other images

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
        some.sort(key=lambda entry: -1.0 if entry.worst is None else -entry.worst.accuracy.value - 2)
        yield Board(data, threat, tuple(some), tuple(places(some)))


def places(entries: Sequence[Entry]) -> list[str]:
    """1 and how many models are better for sure: models that chance may have put in this order share a place.

    Better for sure: McNemar's exact test on the same images, all pairs together at 5 % by Holm's method.
    """
    ranked = [entry for entry in entries if entry.worst is not None]
    same = [entry for entry in ranked if entry.clean.slices == ranked[0].clean.slices and _alike(entry, ranked[0])]
    if not same:
        return ["" for _ in entries]
    better = surely_better(np.stack([entry.worst.robust for entry in same if entry.worst is not None]))
    found = {id(entry): str(1 + int(count)) for entry, count in zip(same, better.sum(0), strict=True)}
    return [found.get(id(entry), "") for entry in entries]


def surely_better(robust: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of (models, images) a matrix (i, j): i holds on more images than j, and not by chance."""
    held = robust.astype(np.float64)
    only = held @ (1 - held).T  # images that i holds and j does not
    upper = np.triu_indices(len(held), 1)
    fewer, differ = np.minimum(only, only.T)[upper].astype(np.int64), (only + only.T)[upper].astype(np.int64)
    p = np.minimum(1.0, 2 * special.bdtr(fewer, differ, 0.5))
    sure = np.zeros_like(only, dtype=np.bool_)
    sure[upper] = holm(p) < SURE
    return (sure | sure.T) & (only > only.T)


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
    if one.slices != other.slices or len(one.robust) == 0:
        return None
    return Distance(paired_difference(one.robust, other.robust), mcnemar(one.robust, other.robust))


def _alike(one: Entry, other: Entry) -> bool:
    """Attacked by the same attacks: otherwise the one that met fewer looks more robust."""
    return [(row.attack, row.seed) for row in one.counted] == [(row.attack, row.seed) for row in other.counted]
