"""All promises by the names of the command line. A promise lists its trials and judges their records."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

import budget_mode
import curves
import exactness
import half
import linf_ball
import nuclear_ball
import thorough_mode
from book import Book, Missing, Verdict
from from_peers import SOURCE

from art_lowrank.record import Record

PROMISES: dict[str, ModuleType] = {
    "curves": curves,
    "exact-rank": exactness,
    "linf": linf_ball,
    "nuclear": nuclear_ball,
    "half": half,
    "budget": budget_mode,
    "thorough": thorough_mode,
}


def verdicts(book: Book, n: int, names: Iterable[str] = PROMISES) -> list[Verdict]:
    return [verdict for name in names for verdict in PROMISES[name].verdicts(book, n)]


def targets(found: Iterable[Verdict]) -> list[str]:
    """The table of targets."""
    head = ["| target | measured | 95 % interval | |", "|---|---|---|---|"]
    return [*head, *(f"| {one.target} | {one.measured} | {one.interval} | {one.word} |" for one in found), ""]


def markdown(records: list[Record], n: int, names: Iterable[str] = PROMISES) -> str:
    """Targets, then what each was judged from."""
    book = Book(records)
    lines = ["## Targets", "", *targets(verdicts(book, n, names)), *caption(book, n), ""]
    for name in names:
        lines += [f"## {PROMISES[name].TITLE}", ""]
        try:
            lines += PROMISES[name].details(book, n)
        except Missing as missing:
            lines += [f"Not measured: {missing}", ""]
    return "\n".join(lines)


def caption(book: Book, n: int) -> list[str]:
    sources = sorted({record.versions[SOURCE] for record in book.records.values()})
    note = " (MIXED: measure again)" if len(sources) > 1 else ""
    return [
        f"The first {n} test images, seed 0; differences are paired on the same images, ours less the other:",
        "negative where ours is stronger. A target is judged by the value; the interval says how sure it is.",
        f"Digest of our attack's source: {', '.join(sources)}{note}.",
    ]
