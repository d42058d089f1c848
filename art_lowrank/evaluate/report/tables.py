"""The report as Markdown for a merge request, and as CSV for a spreadsheet: a line an attack."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator, Sequence

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.report.chart import milliseconds, rank_text
from art_lowrank.evaluate.report.compare import Comparison
from art_lowrank.evaluate.report.curves import rank_curve_of
from art_lowrank.evaluate.report.flags import KINDS
from art_lowrank.evaluate.report.order import eps_of
from art_lowrank.evaluate.report.ranking import Board
from art_lowrank.evaluate.report.reproduce import commands
from art_lowrank.evaluate.report.summary import Summary
from art_lowrank.evaluate.report.words import NONE, accuracy, against_strongest, name, quoted, time
from art_lowrank.evaluate.rows import Row
from art_lowrank.statistics import wilson

COLUMNS = (
    "model", "data", "norm", "eps", "attack", "after", "seed", "images", "right", "accuracy", "low", "high",
    "gradients", "milliseconds", "flags", "model_flags", "error", "model_hash", "data_hash", "cells", "command",
)  # fmt: skip
POINTS = ("model", "data", "norm", "eps", "attack", "along", "value", "images", "accuracy", "low", "high")


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
    yield from (f"**{_cell(line)}**\n" for line in summary.warnings)
    for board in summary.boards:
        yield f"## {_cell(board.title)}\n"
        yield from _board(summary, board)
        yield ""
        for entry in board.entries:
            yield f"### {_cell(entry.model)}, {_cell(entry.threat or entry.data)}\n"
            yield from _entry(summary, entry)
            yield ""
    kinds = dict.fromkeys(flag.kind for entry in summary.entries for flag in summary.doubts(entry))
    if kinds:
        yield "## Doubts explained\n"
        yield from (f"- {_cell(kind)}: {_cell(KINDS.get(kind, ''))}" for kind in kinds)


def _board(summary: Summary, board: Board) -> Iterator[str]:
    yield from _head("place", "model", "images", "clean", "worst case", "effective rank", "doubts")
    for standing, entry in zip(board.standings, board.entries, strict=True):
        curve = rank_curve_of(entry)
        rank = rank_text(curve.effective) if curve else ""
        doubts = ", ".join(dict.fromkeys(flag.kind for flag in summary.doubts(entry)))
        worst = accuracy(entry.worst) + (" ⚑" if doubts else "")
        images = str(len(entry.clean.robust))
        yield _line(standing.place or NONE, entry.model, images, accuracy(entry.clean), worst, rank, doubts)


def _entry(summary: Summary, entry: Entry) -> Iterator[str]:
    yield f"{_cell(quoted(entry, summary.doubts(entry)))}\n"
    yield from _head("attack", "accuracy", "against the strongest", "gradients", "ms an image", "doubts")
    for row in (entry.clean, *entry.rows):
        doubts, label = "; ".join(flag.text for flag in summary.flags.get(row, ())), name(entry, row)
        if row.error:
            yield _line(label, "failed", "", "", "", row.error)
        elif row is entry.clean:
            yield _line(label, accuracy(row), "", "", "", doubts)
        else:
            cost = f"{row.gradients:.1f}", time(row)
            yield _line(label, accuracy(row), against_strongest(entry, row), *cost, doubts)


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield _line(*("---" for _ in names))


def _line(*cells: str) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """Text in a line of Markdown that is nothing but text: no HTML, no link, no other column."""
    plain = html.escape(" ".join(text.split()), quote=False)
    if plain == "---":
        return plain
    plain = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", plain)
    return re.sub(r"^(\d*)([-+.)])(?=\s)", r"\1\\\2", plain)  # no list either


def csv_text(summary: Summary) -> str:
    """A line a model and attack with the cells and the command behind it, and one for every worst case."""
    return _csv(COLUMNS, _lines(summary))


def curves_text(summary: Summary) -> str:
    """A line a point of every curve over rank or eps."""
    return _csv(POINTS, _points(summary))


def _csv(head: Sequence[str], lines: Iterator[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_safe(value) for value in line] for line in lines)
    return buffer.getvalue()


def _lines(summary: Summary) -> Iterator[Sequence[object]]:
    seen, before = set(), summary.attacks
    for entry in summary.entries:
        own = "; ".join(flag.text for flag in summary.flags.get(entry.clean, ()))
        for row in (entry.clean, *entry.rows):
            if row not in seen:
                flags = "" if row is entry.clean else "; ".join(flag.text for flag in summary.flags.get(row, ()))
                yield _values(row, flags, own, commands(row, before))
            seen.add(row)
        if entry.worst is not None:
            yield _values(entry.worst, "; ".join(flag.text for flag in summary.doubts(entry)), own, ())


def _values(row: Row, flags: str, own: str, again: Sequence[str]) -> Sequence[object]:
    n, (norm, eps) = len(row.robust), _ball(row.threat)
    interval = [f"{number:.6f}" for number in row.accuracy] if n else ["", "", ""]
    hashes = [
        " ".join(dict.fromkeys(str(record.values.get(key, "")) for record in row.done))
        for key in ("model_hash", "data_hash")
    ]
    cells = " ".join(str(record.settings["cell"]) for record in row.records)
    return (
        row.model, row.data, norm, eps, row.attack, "; ".join(row.before),
        "" if row.seed is None else row.seed, n, int(row.robust.sum()), *interval,
        f"{row.gradients:.2f}", f"{milliseconds(row):.4g}", flags, own, row.error, *hashes, cells,
        "; ".join(again),
    )  # fmt: skip


def _points(summary: Summary) -> Iterator[Sequence[object]]:
    for entry in summary.entries:
        for row in entry.rows:
            along = "rank" if row.attack.startswith("rank") else "eps"
            for value, share in row.curve:
                n = len(row.robust)
                interval = (f"{number:.6f}" for number in wilson(round(share * n), n))
                yield (row.model, row.data, *_ball(row.threat), row.attack, along, f"{value:g}", n, *interval)


def _ball(threat: str) -> tuple[str, object]:
    """Norm and radius as a number."""
    norm, _, radius = threat.partition(" ")
    return norm, f"{eps_of(radius.partition(' ')[0]):.6g}" if radius else ""


def _safe(value: object) -> object:
    """A spreadsheet takes text that begins like this for a formula."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
