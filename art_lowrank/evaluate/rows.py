"""What an evaluation has found, cells put together: a row a model, data and attack, and the worst case of a threat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from art_lowrank.evaluate.cell import NotRun, failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.record import Record, unpack
from art_lowrank.statistics import Interval, wilson

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Row:
    """One model under one attack, over all slices."""

    model: str
    data: str
    attack: str
    threat: str  # "" of the clean row
    seed: int | None
    robust: Flags  # (n,) images that hold
    gradients: float = 0.0  # an image that was attacked
    seconds: float = 0.0
    doubts: tuple[str, ...] = ()  # of the model, seen on clean images: on all of its rows
    notes: tuple[str, ...] = ()  # of this attack
    curve: tuple[tuple[float, float], ...] = ()  # rank or radius, and accuracy there
    error: str = ""
    not_run: bool = False  # because the model failed on the clean images
    after: int = 0  # attacks whose survivors it was run on

    @property
    def accuracy(self) -> Interval:
        """The share of images that hold."""
        return wilson(int(self.robust.sum()), len(self.robust))


def rows_of(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[Row]:
    """One row a model, data and attack (and seed), in the plan's order."""
    groups: dict[tuple[str, str], dict[tuple[str, int], list[Cell]]] = {}
    for cell in cells:
        if cell.id in records:
            groups.setdefault((cell.model, cell.data), {}).setdefault((cell.attack, cell.seed), []).append(cell)
    found = []
    for attacks in groups.values():
        some = [_row(part, [records[cell.id] for cell in part]) for part in attacks.values()]
        doubts = next((row.doubts for row in some if row.attack == CLEAN), ())
        found += [replace(row, doubts=doubts) for row in some]
    return found


def with_worst(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, and after those of a model the worst case of each threat, where every attack has seen all images."""
    for model in dict.fromkeys((row.model, row.data) for row in rows):
        found = [row for row in rows if (row.model, row.data) == model]
        yield from found
        for threat in dict.fromkeys(row.threat for row in found if row.threat):
            of_threat = [row for row in found if row.threat == threat and not row.error]
            if len(of_threat) > 1 and len({len(row.robust) for row in of_threat}) == 1:
                yield worst(of_threat)


def worst(rows: Sequence[Row]) -> Row:
    """Images that hold against every one of these attacks."""
    first = rows[0]
    attacks = len({row.attack for row in rows})
    name = f"worst of {attacks}" if attacks > 1 else f"worst of {len(rows)} seeds"
    robust = np.logical_and.reduce([row.robust for row in rows])
    return Row(first.model, first.data, name, first.threat, None, robust, doubts=first.doubts)


def _row(cells: Sequence[Cell], records: Sequence[Record]) -> Row:
    first, done = cells[0], [record for record in records if not failed(record)]
    lost = [record.values for record in records if failed(record)]
    return Row(
        first.model,
        first.data,
        first.attack,
        next((str(record.values["threat"]) for record in done if "threat" in record.values), ""),
        None if first.attack == CLEAN else first.seed,
        np.array([flag for record in done for flag in _flags(record, "robust")], dtype=np.bool_),
        gradients=_total(done, "gradients") / max(1, sum(_attacked(record) for record in done)),
        seconds=sum(_number(record.volatile.get("seconds")) for record in done),
        doubts=tuple(dict.fromkeys(_doubts(done))),
        notes=tuple(_notes(done)),
        curve=tuple(_curve(done)),
        error=str(lost[0]["error"]) if lost else "",
        not_run=any(values["type"] == NotRun.__name__ for values in lost),
        after=max(0, len(first.needs) - 1),
    )


def _doubts(done: Sequence[Record]) -> Iterator[str]:
    """Of the model, from its clean cells."""
    for record in done:
        if isinstance(doubts := record.values.get("doubts"), list):
            yield from (str(doubt) for doubt in doubts)
    if zero := _total(done, "zero_gradients"):
        yield f"no gradient on {zero:.0f} of {_total(done, 'gradients_looked_at'):.0f}"
    if done and done[0].attack == CLEAN and not _total(done, "right"):
        yield "no image is right"


def _notes(done: Sequence[Record]) -> Iterator[str]:
    """Of an attack: what makes its number doubtful."""
    for name, words in (("outside", "broken outside the ball"), ("unreadable", "with NaN logits")):
        if count := _total(done, name):
            yield f"{count:.0f} {words}"
    if count := sum(sum(_flags(record, "dead")) for record in done if "dead" in record.values):
        yield f"{count} without gradient"


def _curve(done: Sequence[Record]) -> Iterator[tuple[float, float]]:
    """Accuracy at every value of a curve: the share of all images that were right and are not broken up to there."""
    if not done or not isinstance(values := done[0].values.get("values"), list):
        return
    n = sum(record.n for record in done)
    for value in map(_number, values):
        yield value, sum(_held_at(record, value) for record in done) / n


def _held_at(record: Record, value: float) -> int:
    breaking = record.values["breaking"]
    assert isinstance(breaking, list)
    flags = zip(_flags(record, "attacked"), breaking, strict=True)
    return sum(attacked and (at is None or _number(at) > value) for attacked, at in flags)


def _flags(record: Record, name: str) -> list[bool]:
    return unpack(str(record.values[name]), record.n)


def _attacked(record: Record) -> int:
    return sum(_flags(record, "attacked")) if "attacked" in record.values else record.n


def _total(done: Sequence[Record], name: str) -> float:
    return sum(_number(record.values.get(name)) for record in done)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
