"""Robust accuracy against rank and against eps, from curves or from separate attacks; the effective attack rank."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.report.order import Variant, spec_of, variant_of
from art_lowrank.evaluate.rows import Row, breaking
from art_lowrank.statistics import Interval, wilson

NEAR = 0.01  # the effective rank is the smallest whose robust accuracy is within one point of the last rank's
DRAWS = 400  # of the images, with replacement, for its interval

Held = npt.NDArray[np.bool_]  # (ranks, images)


@dataclass(frozen=True)
class RankCurve:
    """What is left at every rank, of one model."""

    source: str  # the attack it comes from
    ranks: tuple[float, ...]  # ascending; the last may be infinite, which is full rank of unknown size
    accuracy: tuple[Interval, ...]
    effective: Interval  # a rank, and the ranks between which 95 % of the draws lie
    images: int

    @property
    def at(self) -> int:
        """The place of the effective rank."""
        return self.ranks.index(self.effective.value)


class Point(NamedTuple):
    """What holds at a radius."""

    eps: float
    share: float


class Radii(NamedTuple):
    """One attack at several radii, on one model."""

    row: Row  # of the largest
    name: str
    points: tuple[Point, ...]  # ascending


@lru_cache(maxsize=512)
def rank_curve_of(entry: Entry) -> RankCurve | None:
    """From the entry's rank curve if it was run, or else from the attack that was run at most ranks."""
    for row in entry.counted:
        if row.curve and "rank" in spec_of(row.attack).name and not row.after:
            found = np.concatenate([breaking(record) for record in row.done])
            ranks = tuple(value for value, _ in row.curve)
            return _rank_curve(row.attack, ranks, np.stack([found > rank for rank in ranks]))
    families = [rows for rows in _by_rank(entry).values() if len(rows) > 1]
    if not families:
        return None
    best = max(families, key=len)
    source = spec_of(next(iter(best.values())).attack)
    rest = [part for part in source.parts if not part.startswith("rank=")]
    name = f"{source.name}[{','.join([*rest, 'rank=...'])}]"
    ranks = tuple(sorted(best))
    return _rank_curve(name, tuple(_known(rank, entry) for rank in ranks), np.stack([best[r].robust for r in ranks]))


def _by_rank(entry: Entry) -> dict[str, dict[float, Row]]:
    """Rows of the same attack by its rank."""
    families: dict[str, dict[float, Row]] = {}
    for row in entry.counted:
        variant = variant_of(row)
        if variant.rank is not None and not row.after:
            key = json.dumps([variant.family, variant.steps])
            families.setdefault(key, {}).setdefault(variant.rank, row)
    return families


def _known(rank: float, entry: Entry) -> float:
    """Full rank as a number, where the records say how large the images are."""
    shape = entry.clean.done[0].values.get("shape")
    if rank < float("inf") or not isinstance(shape, list) or len(shape) < 2:
        return rank
    return float(min(int(str(size)) for size in shape[-2:]))


def _rank_curve(source: str, ranks: tuple[float, ...], held: Held) -> RankCurve:
    n = held.shape[1]
    accuracy = tuple(wilson(int(row.sum()), n) for row in held)
    return RankCurve(source, ranks, accuracy, effective_rank(ranks, held), n)


def effective_rank(ranks: Sequence[float], held: Held, seed: int = 0) -> Interval:
    """The smallest rank that leaves at most a point more than the last, with a bootstrap interval over the images."""
    n = held.shape[1]
    codes = np.packbits(held, axis=0)  # the same for images that hold at the same ranks
    _, first, counts = np.unique(codes, axis=1, return_index=True, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=DRAWS)
    shares = np.vstack([counts[None], draws]) @ held.T[first].astype(np.float64) / n
    found = np.asarray(ranks)[(shares <= shares[:, -1:] + NEAR + 1e-9).argmax(1)]
    low, high = np.quantile(found[1:], [0.025, 0.975], method="nearest")
    return Interval(float(found[0]), float(low), float(high))


def at_radii(rows: Sequence[Row]) -> Iterator[Radii]:
    """One model's attacks at several radii: curves over eps, and the same attack with one radius after the other."""
    rows = list({(row.attack, row.threat): row for row in reversed(rows)}.values())[::-1]  # one seed
    for row in rows:
        if row.curve and spec_of(row.attack).name == "eps-curve":
            yield Radii(row, row.attack, tuple(Point(*point) for point in row.curve))
    families: dict[str, dict[float, Row]] = {}
    for row in rows:
        if spec_of(row.attack).name != "eps-curve" and not row.after:
            variant = variant_of(row)
            families.setdefault(_but_eps(variant), {}).setdefault(variant.eps, row)
    for found in families.values():
        if len(found) > 1:
            points = tuple(Point(eps, found[eps].accuracy.value) for eps in sorted(found))
            row = found[max(found)]
            yield Radii(row, _without_eps(row.attack), points)


def _but_eps(variant: Variant) -> str:
    return json.dumps([variant.family, variant.rank, variant.steps])


def _without_eps(attack: str) -> str:
    spec = spec_of(attack)
    rest = [part for part in spec.parts if not part.startswith("eps=")]
    return f"{spec.name}[{','.join(rest)}]" if rest else spec.name
