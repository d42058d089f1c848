"""What an evaluation has found, as a table of text: one row an attack, and the worst case over those of one threat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from art_lowrank.evaluate.cell import failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.record import JSON, Record, unpack
from art_lowrank.statistics import wilson


class Row(NamedTuple):
    """One line: the images that hold (n,), over all slices."""

    model: str
    data: str
    attack: str
    threat: str
    seed: int | None
    robust: np.ndarray[tuple[int], np.dtype[np.bool_]]
    gradients: float  # an image that was attacked
    seconds: float
    notes: tuple[str, ...]
    error: str = ""
    after: int = 0  # attacks whose survivors it was run on

    @property
    def accuracy(self) -> str:
        """Percent with its interval."""
        return wilson(int(self.robust.sum()), len(self.robust)).percent() if len(self.robust) else "-"


def rows_of(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[Row]:
    """One row a model, data and attack (and seed)."""
    groups: dict[tuple[str, str], dict[tuple[str, int], list[Cell]]] = {}
    for cell in cells:
        if cell.id in records:
            groups.setdefault((cell.model, cell.data), {}).setdefault((cell.attack, cell.seed), []).append(cell)
    return [_row(some, [records[cell.id] for cell in some]) for attacks in groups.values() for some in attacks.values()]


def with_worst(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, and after those of a model the worst case of each threat, where every attack has seen all images."""
    for model in dict.fromkeys((row.model, row.data) for row in rows):
        found = [row for row in rows if (row.model, row.data) == model]
        yield from found
        for threat in dict.fromkeys(row.threat for row in found if row.threat):
            of_threat = [row for row in found if row.threat == threat and not row.error]
            if len(of_threat) > 1 and len({len(row.robust) for row in of_threat}) == 1:
                yield worst(of_threat)


def _row(cells: Sequence[Cell], records: Sequence[Record]) -> Row:
    done = [record for record in records if not failed(record)]
    flags = [unpack(str(record.values["robust"]), record.n) for record in done]
    attacked = sum(_count(record) for record in done)
    gradients = _sum(record.values["gradients"] for record in done) / max(1, attacked)
    seconds = _sum(record.volatile.get("seconds", 0.0) for record in done)
    error = next((str(record.values["error"]) for record in records if failed(record)), "")
    first, threat = cells[0], next((str(r.values["threat"]) for r in done if "threat" in r.values), "")
    notes = tuple(dict.fromkeys(note for record in done for note in _notes(record)))
    seed = None if first.attack == CLEAN else first.seed
    robust = np.array([flag for part in flags for flag in part], dtype=np.bool_)
    after = max(0, len(first.needs) - 1)
    if after:
        notes = (f"on survivors of {after} before", *notes)
    return Row(first.model, first.data, first.attack, threat, seed, robust, gradients, seconds, notes, error, after)


def worst(rows: Sequence[Row]) -> Row:
    """Images that hold against every one of these attacks."""
    first = rows[0]
    robust = np.logical_and.reduce([row.robust for row in rows])
    attacks = len({row.attack for row in rows})
    name = f"worst of {attacks}" if attacks > 1 else f"worst of {len(rows)} seeds"
    return Row(first.model, first.data, name, first.threat, None, robust, 0.0, 0.0, ())


def _sum(values: Iterable[JSON]) -> float:
    return sum(float(value) for value in values if isinstance(value, int | float))


def _count(record: Record) -> int:
    return sum(unpack(str(record.values["attacked"]), record.n)) if "attacked" in record.values else record.n


def _notes(record: Record) -> Iterator[str]:
    """What makes a number doubtful, in a word."""
    doubts = record.values.get("doubts", [])
    if isinstance(doubts, list):
        yield from map(str, doubts)
    for name, words in (("outside", "broken outside the ball"), ("unreadable", "NaN")):
        if count := record.values.get(name):
            yield f"{count} {words}"
    if isinstance(dead := record.values.get("dead"), str) and (count := sum(unpack(dead, record.n))):
        yield f"{count} without gradient"


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table, a line at a time, worst cases included."""
    rows = list(with_worst(rows))
    wide = max([len(row.attack) for row in rows] + [6])
    seeds = len({row.seed for row in rows if row.seed is not None}) > 1
    before = None
    for row in rows:
        if (row.model, row.data) != before:
            before = row.model, row.data
            yield f"\n{row.model} on {row.data}, {len(row.robust)} images" if len(row.robust) else f"\n{row.model}"
            yield f"  {'attack':{wide}s}  {'allowed':12s}  {'accuracy, 95 %':24s}  {'gradients':>9s}  {'time':>7s}"
        yield f"  {_line(row, wide, seeds)}".rstrip()


def _line(row: Row, wide: int, seeds: bool) -> str:
    name = f"{row.attack:{wide}s}  {row.threat:12s}"
    if row.error:
        return f"{name}  failed: {row.error}"
    cost = f"{row.gradients:9.1f}  {row.seconds:6.1f}s" if row.seconds else " " * 18
    seed = f"  seed {row.seed}" if seeds and row.seed is not None else ""
    return f"{name}  {row.accuracy:24s}  {cost}{seed}  {', '.join(row.notes)}"
