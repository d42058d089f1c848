"""Rows as a table of text, with what its remarks mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from art_lowrank.evaluate.plan import CLEAN
from art_lowrank.evaluate.remarks import MEANINGS, kind_of
from art_lowrank.evaluate.rows import Row, rows_of, with_worst
from art_lowrank.evaluate.threat import number

LONG = 160  # letters of an error in the table; the record has all of it


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
        if not row.not_run:
            yield f"  {_line(row, wide, seeds)}".rstrip()
        if row.curve:
            yield f"  {'':{wide}s}    {_points(row)}"
    yield from _meanings(rows)


def _line(row: Row, wide: int, seeds: bool) -> str:
    name = f"{row.attack:{wide}s}  {row.threat:12s}"
    if row.error:
        return f"{name}  failed: {row.error if len(row.error) <= LONG else row.error[:LONG] + '...'}"
    cost = f"{row.gradients:9.1f}  {row.seconds:6.1f}s" if row.seconds and row.attack != CLEAN else " " * 18
    notes = [f"seed {row.seed}"] if seeds and row.seed is not None else []
    notes += [f"on survivors of {row.after} before"] if row.after else []
    return f"{name}  {row.accuracy.percent():24s}  {cost}  {', '.join([*notes, *row.doubts, *row.notes])}"


def _points(row: Row) -> str:
    """A curve's accuracy at every rank or radius."""
    words = "rank" if "rank" in row.attack.partition("[")[0] else "eps"
    return f"at {words} " + ", ".join(f"{number(value)}: {100 * share:.1f} %" for value, share in row.curve)


def _meanings(rows: Sequence[Row]) -> Iterator[str]:
    """What the remarks mean, for those that are there."""
    there = {kind_of(remark) for row in rows for remark in (*row.doubts, *row.notes)}
    found = [kind for kind in MEANINGS if kind in there]
    if found:
        yield ""
    for kind in found:
        yield f"  {kind}: {MEANINGS[kind]}"


__all__ = ["lines", "rows_of"]
