"""The report as Markdown for a merge request, and as CSV for a spreadsheet: a line an attack."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator, Sequence

from art_lowrank.evaluate.report.chart import milliseconds, rank_text
from art_lowrank.evaluate.report.compare import Comparison
from art_lowrank.evaluate.report.curves import rank_curve_of
from art_lowrank.evaluate.report.ranking import Board
from art_lowrank.evaluate.report.reproduce import commands
from art_lowrank.evaluate.report.summary import Summary
from art_lowrank.evaluate.report.words import accuracy, against_strongest, name, sentence, time
from art_lowrank.evaluate.rows import Entry, Row

COLUMNS = (
    "model", "data", "threat", "attack", "seed", "images", "right", "accuracy", "low", "high", "gradients",
    "milliseconds", "flags", "error", "model_hash", "data_hash", "cells", "command",
)  # fmt: skip


def markdown(summary: Summary, comparison: Comparison | None) -> str:
    """Leaderboards, then every model's attacks, then the commands' place."""
    return "\n".join(_markdown(summary, comparison)) + "\n"


def _markdown(summary: Summary, comparison: Comparison | None) -> Iterator[str]:
    yield "# Robustness report\n"
    yield "Shares of images in percent with 95 % Wilson intervals.\n"
    if comparison is not None:
        yield "## What changed\n"
        yield from (f"- {_cell(line)}" for line in comparison.lines())
        yield ""
    for board in summary.boards:
        yield f"## {_cell(board.title)}\n"
        yield from _board(summary, board)
        yield ""
        for entry in board.entries:
            yield f"### {_cell(entry.model)}, {_cell(entry.threat or entry.data)}\n"
            yield from _entry(summary, entry)
            yield ""


def _board(summary: Summary, board: Board) -> Iterator[str]:
    yield from _head("place", "model", "images", "clean", "worst case", "effective rank", "doubts")
    for place, entry in zip(board.places, board.entries, strict=True):
        curve = rank_curve_of(entry)
        rank = rank_text(curve.effective) if curve else ""
        doubts = ", ".join(dict.fromkeys(flag.kind for flag in summary.doubts(entry)))
        images = str(len(entry.clean.robust))
        yield _line(place, entry.model, images, accuracy(entry.clean), accuracy(entry.worst), rank, doubts)


def _entry(summary: Summary, entry: Entry) -> Iterator[str]:
    yield f"{_cell(sentence(entry))}\n"
    yield from _head("attack", "accuracy", "against the strongest", "gradients", "ms an image", "doubts")
    for row in (entry.clean, *entry.rows):
        doubts = "; ".join(flag.seen for flag in summary.flags.get(row, ()))
        if row.error:
            yield _line(name(row), "failed", "", "", "", row.error)
        else:
            yield _line(
                name(row), accuracy(row), against_strongest(entry, row), f"{row.gradients:.1f}", time(row), doubts
            )


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield _line(*("---" for _ in names))


def _line(*cells: str) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Text in a line of Markdown that is nothing but text: no HTML, no link, no other column."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return plain if plain == "---" else re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", plain)


def csv_text(summary: Summary) -> str:
    """A line a model and attack, with the cells and the command behind it."""
    buffer, before = io.StringIO(), summary.attacks
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    seen: set[Row] = set()
    for entry in summary.entries:
        for row in (entry.clean, *entry.rows):
            if row not in seen:
                seen.add(row)
                flags = [f"{flag.kind}: {flag.seen}" for flag in summary.flags.get(row, ())]
                writer.writerow(map(_safe, _values(row, flags, commands(row, before))))
    return buffer.getvalue()


def _values(row: Row, flags: Sequence[str], again: Sequence[str]) -> Sequence[object]:
    n = len(row.robust)
    interval = [f"{number:.6f}" for number in row.accuracy] if n else ["", "", ""]
    hashes = [
        " ".join(dict.fromkeys(str(record.values.get(key, "")) for record in row.done))
        for key in ("model_hash", "data_hash")
    ]
    cells = " ".join(str(record.settings["cell"]) for record in row.records)
    return (
        row.model, row.data, row.threat, row.attack, "" if row.seed is None else row.seed, n, int(row.robust.sum()),
        *interval, f"{row.gradients:.2f}", f"{milliseconds(row):.4g}", "; ".join(flags), row.error, *hashes, cells,
        "; ".join(again),
    )  # fmt: skip


def _safe(value: object) -> object:
    """A spreadsheet takes text that begins like this for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
