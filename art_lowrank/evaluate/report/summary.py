"""Everything a report says, worked out once: the page, the tables and the exit code are made from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from art_lowrank.evaluate.report.flags import Flag, entry_flags, flags_in
from art_lowrank.evaluate.report.ranking import Board, boards
from art_lowrank.evaluate.report.read import rows_in
from art_lowrank.evaluate.rows import Entry, Row, entries_of
from art_lowrank.evaluate.spec import nearest
from art_lowrank.record import Record


@dataclass(frozen=True)
class Summary:
    """A folder's rows, ordered and doubted."""

    folder: Path
    rows: Sequence[Row]
    boards: Sequence[Board]
    flags: Mapping[Row, Sequence[Flag]]

    @property
    def entries(self) -> list[Entry]:
        """Every model with every threat, board after board."""
        return [entry for board in self.boards for entry in board.entries]

    @property
    def records(self) -> list[Record]:
        """Everything it rests on."""
        return [record for row in self.rows for record in row.records]

    @property
    def attacks(self) -> dict[str, str]:
        """The attacks of all cells by their ids."""
        return {str(record.settings["cell"]): record.attack for record in self.records}

    def doubts(self, entry: Entry) -> list[Flag]:
        """What doubts its worst case."""
        return entry_flags(entry, self.flags)


def summary_of(folder: Path, models: Iterable[str] = ()) -> Summary:
    """Read and judge; of some models only, where they are named."""
    rows = _only(rows_in(folder), list(models))
    entries = list(entries_of(rows))
    if not entries:
        raise ValueError(f"{folder} lacks the cells without an attack of these models; run art-lowrank evaluate again")
    flags = flags_in(entries)
    return Summary(folder, rows, list(boards(entries)), flags)


def _only(rows: list[Row], models: list[str]) -> list[Row]:
    known = list(dict.fromkeys(row.model for row in rows))
    for model in models:
        if model not in known:
            raise ValueError(f"{nearest(model, known, 'model')} (--model)")
    return [row for row in rows if not models or row.model in models]
