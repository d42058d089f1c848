"""What `art-lowrank report` does: read, write the page and the tables beside it, name the exit code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from art_lowrank.evaluate.report.chart import TOGETHER, eps_charts, rank_chart
from art_lowrank.evaluate.report.compare import Comparison, compared
from art_lowrank.evaluate.report.gate import Bound, below
from art_lowrank.evaluate.report.page import page
from art_lowrank.evaluate.report.png import can_draw, png
from art_lowrank.evaluate.report.summary import Summary, summary_of
from art_lowrank.evaluate.report.tables import csv_text, curves_text, markdown
from art_lowrank.evaluate.report.words import printable
from art_lowrank.files import write_whole

FOLDER, PAGE = "report", "index.html"
FINE, BELOW, DOUBTED, WORSE = 0, 4, 5, 6
DAMAGED = (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class Asked(NamedTuple):
    """What a report is asked for."""

    folder: Path
    out: Path | None = None
    other: Path | None = None
    models: Sequence[str] = ()
    pictures: int = 10
    bounds: Sequence[Bound] = ()
    strict: bool = False


def report(asked: Asked, say: Callable[[str], Any] = print) -> int:
    """Write the report and return the exit code: of several, the first of BELOW, DOUBTED and WORSE."""
    with _blaming(asked.folder):
        summary = summary_of(asked.folder, asked.models)
    comparison = None
    if asked.other is not None:
        with _blaming(asked.other):
            comparison = compared(summary, summary_of(asked.other, asked.models))
    with _blaming(asked.folder):
        failures = _failures(asked, summary, comparison)
        data = dict(files(summary, comparison, asked.pictures))
    out = asked.out or asked.folder / FOLDER
    try:
        _write(out, data)
    except OSError as error:
        raise ValueError(f"cannot write the report to {out} ({error.strerror or error}); give another --out") from error
    for line in (*shown(summary, comparison), *(f"FAILED: {line}" for _, line in failures)):
        say(" ".join(printable(line).splitlines()))
    if not can_draw():
        say("matplotlib is not installed, so there are no PNG files: pip install 'art-lowrank[report]'")
    say(f"Report: {out / PAGE}")
    return min((code for code, _ in failures), default=FINE)


@contextmanager
def _blaming(folder: Path) -> Iterator[None]:
    """What no check of records has foreseen is one line too."""
    try:
        yield
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"records in {folder} are damaged, or of another version ({reason})") from error


def _write(out: Path, data: Mapping[str, bytes]) -> None:
    """Every file whole; pictures of an earlier report that this one does not have are deleted."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in data.items():
        write_whole(out / name, content)
    for path in out.iterdir():
        if re.fullmatch(r"(rank|eps)-\d+\.png", path.name) and path.name not in data:
            path.unlink(missing_ok=True)


def _failures(asked: Asked, summary: Summary, comparison: Comparison | None) -> list[tuple[int, str]]:
    """Why this report does not end with 0: exit codes and reasons."""
    found = [(BELOW, line) for line in below(summary, asked.bounds)]
    if asked.strict:
        pairs = ((entry, summary.doubts(entry)) for entry in summary.entries)
        found += [(DOUBTED, f"doubt: {entry.model}, {flag.text}") for entry, flags in pairs for flag in flags]
        found += [(DOUBTED, f"doubt: {len(summary.missing)} cells are not finished")] * bool(summary.missing)
    if comparison is not None:
        found += [(WORSE, f"worse: {change}") for change in comparison.worse]
        found += [(WORSE, f"{name}: failed now") for name in comparison.lost]
    return list(dict.fromkeys(found))


def files(summary: Summary, comparison: Comparison | None, pictures: int) -> Iterator[tuple[str, bytes]]:
    """Everything that is written, by name; the page last."""
    yield "report.md", printable(markdown(summary, comparison)).encode()
    yield "report.csv", printable(csv_text(summary)).encode()
    yield "curves.csv", printable(curves_text(summary)).encode()
    if can_draw():
        charts = {f"rank-{place}": rank_chart(board) for place, board in enumerate(summary.boards, start=1)}
        radii = islice(eps_charts(summary.entries), TOGETHER)
        charts |= {f"eps-{place}": chart for place, chart in enumerate(radii, start=1)}
        for name, found in charts.items():
            if found is not None:
                yield f"{name}.png", png(found)
    yield PAGE, printable(page(summary, comparison, pictures)).encode()


def shown(summary: Summary, comparison: Comparison | None) -> Iterator[str]:
    """The worst cases, with their doubts, and what changed."""
    yield from summary.warnings
    for board in summary.boards:
        yield f"{board.title}, {max(len(entry.clean.robust) for entry in board.entries)} images"
        wide = max(len(entry.model) for entry in board.entries)
        for standing, entry in zip(board.standings, board.entries, strict=True):
            kinds = ", ".join(dict.fromkeys(flag.kind for flag in summary.doubts(entry)))
            number = "no worst case" if entry.worst is None else entry.worst.accuracy.percent()
            clean = "failed" if entry.clean.error else entry.clean.accuracy.percent()
            doubts = f"  doubtful: {kinds}" if kinds else f"  ({standing.why})" if standing.why else ""
            name = f"  {standing.place or '-':>3s}. {entry.model:{wide}s}"
            yield f"{name}  clean {clean:22s}  worst case {number:22s}{doubts}".rstrip()
    if comparison is not None:
        yield f"Since {comparison.other}:"
        yield from (f"  {line}" for line in comparison.lines())
