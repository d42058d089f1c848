"""Everything a report says, worked out once: the page, the tables and the exit code are made from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from art_lowrank.evaluate.entries import Entry, entries_of
from art_lowrank.evaluate.outcome import failed
from art_lowrank.evaluate.report.flags import Flag, entry_flags, flags_in
from art_lowrank.evaluate.report.ranking import Board, boards
from art_lowrank.evaluate.report.read import Wanted, last_records, missing, rows_in
from art_lowrank.evaluate.rows import Row
from art_lowrank.evaluate.spec import nearest
from art_lowrank.record import Record


@dataclass(frozen=True)
class Summary:
    """A folder's rows, ordered and doubted."""

    folder: Path
    rows: Sequence[Row]
    boards: Sequence[Board]
    flags: Mapping[Row, Sequence[Flag]]
    missing: Sequence[Wanted] = ()  # asked for, and not there yet
    attacks: Mapping[str, str] = field(default_factory=dict)  # of all cells by their ids

    @property
    def entries(self) -> list[Entry]:
        """Every model with every threat, board after board."""
        return [entry for board in self.boards for entry in board.entries]

    @property
    def records(self) -> list[Record]:
        """Everything it rests on."""
        return [record for row in self.rows for record in row.records]

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before all numbers."""
        lost = sum(failed(record) for record in self.records)
        found = [f"NOT FINISHED: {len(self.missing)} cells that were asked for are not there yet"] * bool(self.missing)
        return found + [f"FAILED: {lost} of {len(self.records)} cells, see the marks"] * bool(lost)

    @property
    def renamed(self) -> bool:
        """Whether a name stood for several models."""
        return any(row.model != row.records[0].model for row in self.rows)

    def doubts(self, entry: Entry) -> list[Flag]:
        """What doubts its worst case."""
        return entry_flags(entry, self.flags)


def summary_of(folder: Path, models: Iterable[str] = ()) -> Summary:
    """Read and judge; of some models only, where they are named."""
    models = list(models)
    records = last_records(folder)
    rows = _only(folder, rows_in(folder, records), models)
    entries = list(entries_of(rows))
    if not entries:
        raise ValueError(f"{folder} lacks the cells without an attack of these models; run art-lowrank evaluate again")
    left = [asked for asked in missing(folder, records) if not models or asked.model in models]
    attacks = {cell: record.attack for cell, record in records.items()}
    return Summary(folder, rows, list(boards(entries)), flags_in(entries, left), left, attacks)


def _only(folder: Path, rows: list[Row], models: list[str]) -> list[Row]:
    known = list(dict.fromkeys(row.model for row in rows))
    for model in models:
        if model not in known:
            raise ValueError(f"{folder}: {nearest(model, known, 'model')} (--model)")
    return [row for row in rows if not models or row.model in models]
