"""A folder's records as rows, checked; the folder is only read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from art_lowrank.evaluate.outcome import ASKED, KIND, RECORDS
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.report.check import check_record, mapping
from art_lowrank.evaluate.rows import Row, rows_of, text_of
from art_lowrank.record import Record, read

LONG = ("margin",)  # a number an image that no report shows


class Wanted(NamedTuple):
    """A cell that is to be run."""

    cell: str
    model: str
    images: str
    attack: str


def rows_in(folder: Path, records: Mapping[str, Record]) -> list[Row]:
    """One row a model, data, attack and seed, in the order they were first begun; `records` by cell."""
    clean = {_images(record): cell for cell, record in records.items() if record.attack == CLEAN}
    cells = [_cell(record, clean) for record in records.values()]
    for cell, known in zip(cells, records, strict=True):
        if cell.id != known:
            raise ValueError(
                f"{folder / RECORDS}: cell {known} asks for what is called {cell.id} here; it was changed by hand or "
                "written by another version of art-lowrank: evaluate again"
            )
    return rows_of(_labelled(cells), records)


def last_records(folder: Path) -> dict[str, Record]:
    """What every cell came to last, by its id."""
    inside = folder.exists() and not (folder / RECORDS).exists() and (folder.parent / RECORDS).exists()
    if folder.is_file() or inside:
        raise ValueError(f"{folder} is in an evaluation's folder; give the folder, {str(folder.parent)!r}")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}; give one that art-lowrank evaluate --out has written")
    path = folder / RECORDS
    if not path.is_file():
        raise ValueError(f"{folder} holds no {RECORDS}; evaluate into it first: art-lowrank evaluate --out {folder}")
    found: dict[str, Record] = {}
    for record in read(path, leave_out=LONG):
        if record.kind == KIND:
            found[_id(record, path)] = record
    if not found:
        raise ValueError(f"{path} holds no cell of an evaluation yet; run art-lowrank evaluate --out {folder}")
    if all(record.attack != CLEAN for record in found.values()):
        raise ValueError(f"{path} lacks the cells without an attack; run art-lowrank evaluate again")
    return found


def missing(folder: Path, known: Collection[str]) -> list[Wanted]:
    """What was asked for and has no record: the evaluation goes on, or was killed."""
    found: dict[str, Wanted] = {}
    for path in sorted((folder / ASKED).glob("*.json")):
        try:
            cells = json.loads(path.read_bytes())["cells"]
            found |= {cell: Wanted(cell, model, images, attack) for cell, model, images, attack, _ in cells}
        except (ValueError, TypeError, LookupError, RecursionError):
            raise ValueError(f"{path} is damaged; delete it, and run the evaluation again to have it anew") from None
    return [asked for cell, asked in found.items() if cell not in known]


def _id(record: Record, path: Path) -> str:
    """The cell's name; a record that cannot be one of ours is named in the error."""
    try:
        check_record(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        where = f"the record of {record.model[:60]!r} under {record.attack[:60]!r}"
        raise ValueError(f"{path} is damaged: {where} {reason}; delete that line") from None
    return str(record.settings["cell"])


def _images(record: Record) -> tuple[str, ...]:
    """Which slice a record is of: a model's meaning, the data's, start and stop."""
    meant = mapping(record.settings["meant"])
    return record.model, *(text_of(meant[key]) for key in ("model", "data")), record.data


def _cell(record: Record, clean: Mapping[tuple[str, ...], str]) -> Cell:
    """The cell as the plan had it."""
    meant, start, stop = mapping(record.settings["meant"]), record.settings["start"], record.settings["stop"]
    after = meant.get("after")
    needs = [clean.get(_images(record), ""), *(map(str, after) if isinstance(after, list) else ())]
    data = record.data.removesuffix(f"[{start}:{stop}]")
    return Cell(
        record.model,
        data,
        int(str(start)),
        int(str(stop)),
        record.attack,
        int(record.seed or 0),
        meant,
        () if record.attack == CLEAN else tuple(needs),
    )


def _labelled(cells: Sequence[Cell]) -> list[Cell]:
    """Files by their names alone; what means different things in one folder (other weights) is the newest's name."""
    for kind in ("model", "data"):
        meanings: dict[str, list[str]] = {}
        for cell in cells:
            meant = text_of(cell.identity[kind])
            if meant not in (known := meanings.setdefault(getattr(cell, kind), [])):
                known.append(meant)
        short = _short(meanings) if kind == "data" else {}
        labels = [_label(cell, kind, meanings, short) for cell in cells]
        pairs = zip(cells, labels, strict=True)
        cells = [replace(cell, model=name) if kind == "model" else replace(cell, data=name) for cell, name in pairs]
    return list(cells)


def _label(cell: Cell, kind: str, meanings: Mapping[str, Sequence[str]], short: Mapping[str, str]) -> str:
    name = str(getattr(cell, kind))
    older = len(meanings[name]) - 1 - meanings[name].index(text_of(cell.identity[kind]))
    return short.get(name, name) + (f" ({older} before)" if older else "")


def _short(names: Collection[str]) -> dict[str, str]:
    """Of paths their last parts, where these tell them apart."""
    last = {name: name.replace("\\", "/").rstrip("/").rpartition("/")[2] for name in names if "[" not in name}
    last = {name: part for name, part in last.items() if not name.startswith("robustbench:")}
    return last if len(set(last.values()) | (set(names) - set(last))) == len(names) else {}
