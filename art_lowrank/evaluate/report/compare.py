"""Two folders side by side: what changed, and whether chance explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from art_lowrank.evaluate.plan import CLEAN
from art_lowrank.evaluate.report.ranking import SURE, Distance, distance, holm, p_text
from art_lowrank.evaluate.report.summary import Summary
from art_lowrank.evaluate.rows import Row

WORSE, BETTER, NOISE, SAME, APART = "worse", "better", "inside the noise", "the same", "not compared"
Key = tuple[str, str, str, str, int | None, tuple[str, ...]]


class Change(NamedTuple):
    """One number here and there."""

    model: str
    data: str
    what: str  # "clean", an attack with its threat, or the worst case
    before: Row
    now: Row
    distance: Distance | None  # now - before, on the same images
    p: float  # made larger for the number of comparisons
    why: str = ""  # there is no distance

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.distance is None:
            return APART
        if self.distance.points.value == 0 and self.distance.p == 1:
            return SAME
        if self.p >= SURE:
            return NOISE
        return BETTER if self.distance.points.value > 0 else WORSE

    def __str__(self) -> str:
        """One line."""
        head = f"{self.model} on {self.data}, {self.what}: "
        head += f"{self.before.accuracy.percent()} -> {self.now.accuracy.percent()}"
        if self.distance is None:
            return f"{head}: {APART}, {self.why}"
        points, n = self.distance.points.points(), len(self.now.robust)
        return f"{head}: {self.verdict}, {points} (n = {n}, Holm {p_text(self.p)})"


@dataclass(frozen=True)
class Comparison:
    """What two folders have in common, and what they have not."""

    other: str
    changes: Sequence[Change]
    only_here: Sequence[str]
    only_there: Sequence[str]
    lost: Sequence[str] = ()  # there was a number, and now it failed

    @property
    def worse(self) -> list[Change]:
        """What got worse for sure."""
        return [change for change in self.changes if change.verdict == WORSE]

    def lines(self) -> Iterator[str]:
        """In words: what changed first, what is the same as a number."""
        order = (WORSE, BETTER, APART, NOISE)
        for verdict in order:
            yield from (str(change) for change in self.changes if change.verdict == verdict)
        apart, same = ([change.verdict for change in self.changes].count(verdict) for verdict in (APART, SAME))
        yield (
            f"{len(self.changes) - apart} of {len(self.changes)} numbers compared, {same} are the same on every image; "
            "p by McNemar's exact test, raised for all comparisons by Holm's method"
        )
        yield from (f"{name}: failed now" for name in self.lost)
        for words, names in ((f"only in {self.other}", self.only_there), ("only here", self.only_here)):
            yield from (f"{words}: {name}, {count} numbers" for name, count in Counter(names).items())


class _Number(NamedTuple):
    """A row, and what it must share with another to be compared."""

    row: Row
    data: list[object]
    attacks: Sequence[str] = ()  # of a worst case


def compared(now: Summary, before: Summary) -> Comparison:
    """Rows of the same model, data, attack, threat and seed; p-values by McNemar, all together by Holm."""
    here, there = _numbers(now), _numbers(before)
    lost = [f"{key[0]} on {key[1]}, {key[3]}" for key in _failed(now) if key in there]
    if not lost and not here.keys() & there.keys():
        raise ValueError(f"{before.folder} and {now.folder} have no model, data and attack in common")
    found = [_change(key, there[key], here[key]) for key in here if key in there]
    tested = [change for change in found if change.distance is not None]
    if not tested and not lost:
        raise ValueError(f"nothing of {now.folder} and {before.folder} can be compared: {found[0].why}")
    raised = holm(np.array([change.distance.p for change in tested if change.distance is not None]))
    p = {id(change): float(value) for change, value in zip(tested, raised, strict=True)}
    found = [change._replace(p=p.get(id(change), 1.0)) for change in found]
    return Comparison(str(before.folder), found, _only(here, there), _only(there, here), lost)


def _numbers(summary: Summary) -> dict[Key, _Number]:
    found: dict[Key, _Number] = {}
    for entry in summary.entries:
        data = _data(entry.clean)
        if not entry.clean.error:
            found[entry.model, entry.data, "", CLEAN, None, ()] = _Number(entry.clean, data)
        for row in entry.rows:
            if not row.error:
                found[row.model, row.data, row.threat, row.attack, row.seed, row.before] = _Number(row, data)
        if entry.worst is not None:
            attacks = sorted(f"{row.attack} {row.seed} {row.before}" for row in entry.counted)
            found[entry.model, entry.data, entry.threat, "worst case", None, ()] = _Number(entry.worst, data, attacks)
    return found


def _failed(summary: Summary) -> Iterator[Key]:
    for entry in summary.entries:
        if entry.clean.error:
            yield entry.model, entry.data, "", CLEAN, None, ()
        for row in entry.rows:
            if row.error and not row.not_run:
                yield row.model, row.data, row.threat, row.attack, row.seed, row.before


def _data(row: Row) -> list[object]:
    return [meant["data"] for record in row.records if isinstance(meant := record.settings["meant"], Mapping)]


def _change(key: Key, before: _Number, now: _Number) -> Change:
    model, data, threat, attack, seed, before_it = key
    what = attack + (f" at {threat}" if threat else "") + (f", seed {seed}" if seed else "")
    what += f" on survivors of {len(before_it)} before" if before_it else ""
    why = _apart(before, now)
    found = None if why else distance(now.row, before.row)
    return Change(model, data, what, before.row, now.row, found, 1.0, why)


def _apart(before: _Number, now: _Number) -> str:
    """Why two numbers cannot be compared, if so."""
    if before.attacks != now.attacks:
        return "the worst case is over other attacks"
    if before.row.cover != now.row.cover or not len(now.row.robust):
        return "the images are others (--images, --slice)"
    return "" if before.data == now.data else "the images' files are others"


def _only(these: Mapping[Key, object], those: Mapping[Key, object]) -> list[str]:
    return [f"{key[0]} on {key[1]}" for key in these if key not in those]
