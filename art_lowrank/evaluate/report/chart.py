"""Figures as values: what is drawn, once as SVG in the page and once as PNG beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.report.curves import RankCurve, at_radii, rank_curve_of
from art_lowrank.evaluate.report.ranking import Board
from art_lowrank.evaluate.rows import Row
from art_lowrank.evaluate.threat import number
from art_lowrank.statistics import Interval, wilson

TOGETHER = 8  # so many lines can be told apart; more models get a panel each


Ticks = tuple[tuple[float, str], ...]


class Mark(NamedTuple):
    """A point with the two ends of its interval."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """A line, or points without one."""

    name: str
    marks: tuple[Mark, ...]
    ring: int | None = None  # the mark that gets a ring
    joined: bool = True
    note: str = ""  # beside its name in the legend


@dataclass(frozen=True)
class Chart:
    """Axes and what is in them."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    ticks: Ticks  # of x
    y_ticks: tuple[float, ...] = (0, 20, 40, 60, 80, 100)
    log_x: bool = False
    log_y: bool = False
    words: str = ""  # what one sees, for those who do not
    under: str = ""  # what is said below it

    @property
    def x_range(self) -> tuple[float, float]:
        """Where the axis begins and ends."""
        values = [x for x, _ in self.ticks] + [mark.x for series in self.series for mark in series.marks]
        low, high = min(values), max(values)
        return (low, high) if high > low else (low * 0.9 - 0.1 * (not self.log_x), high * 1.1 + 0.1)


def rank_charts(board: Board) -> Iterator[Chart]:
    """Robust accuracy against rank: all models in one chart, or a panel each where they are many."""
    series, ticks = _rank_lines(board)
    if len(series) <= TOGETHER:
        yield from [_rank_chart("Robust accuracy against rank", series, ticks)] if series else []
        return
    for line in series:
        yield replace(_rank_chart(line.name, [line], ticks), under=line.note)


def rank_chart(board: Board) -> Chart | None:
    """The most robust models in one chart."""
    series, ticks = _rank_lines(board)
    more = f", the first {TOGETHER} of {len(series)} models" if len(series) > TOGETHER else ""
    return _rank_chart(f"{board.title}{more}", series[:TOGETHER], ticks) if series else None


def _rank_lines(board: Board) -> tuple[list[Series], Ticks]:
    found = [(entry, curve) for entry in board.entries if (curve := rank_curve_of(entry)) is not None]
    ticks = rank_ticks([curve for _, curve in found])
    return [_rank_series(entry, curve, ticks) for entry, curve in found], ticks


def _rank_chart(title: str, series: Sequence[Series], ticks: Ticks) -> Chart:
    return Chart(
        title, "rank of the perturbation", "robust accuracy (%)", tuple(series), ticks, log_x=True,
        words="; ".join(f"{line.name}: {line.note}" for line in series),
    )  # fmt: skip


def _rank_series(entry: Entry, curve: RankCurve, ticks: Ticks) -> Series:
    doubt = f", ⚑ {', '.join(entry.clean.doubts)}" if entry.clean.doubts else ""
    note = f"effective rank {rank_text(curve.effective)}{doubt}"
    return Series(entry.model, tuple(_on_axis(curve, ticks)), curve.at, note=note)


def rank_ticks(curves: Sequence[RankCurve]) -> Ticks:
    """All ranks; full rank of unknown size comes after the others."""
    finite = sorted({rank for curve in curves for rank in curve.ranks if math.isfinite(rank)})
    ticks = [(rank, f"{rank:g}") for rank in finite]
    if any(math.isinf(curve.ranks[-1]) for curve in curves):
        ticks.append((2 * finite[-1] if finite else 1.0, "full"))
    return tuple(ticks)


def rank_text(effective: Interval) -> str:
    """`4 [2, 8]`, or `full`."""
    value, low, high = ("full" if math.isinf(rank) else f"{rank:g}" for rank in effective)
    return f"{value} [{low}, {high}]"


def eps_charts(entries: Sequence[Entry]) -> Iterator[Chart]:
    """Robust accuracy against eps: a chart a model, data and norm, where several radii were tried."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.model, entry.data, entry.threat.split(" ")[0]), []).append(entry)
    for (model, data, norm), some in groups.items():
        clean, n = some[0].clean, len(some[0].clean.robust)
        found = list(at_radii([row for entry in some for row in entry.counted if not row.after]))
        if not found:
            continue
        lines = []
        for radii in found[:TOGETHER]:
            start = Mark(0.0, *percent(clean.accuracy))
            rest = (Mark(eps, *percent(wilson(round(share * n), n))) for eps, share in radii.points)
            lines.append(Series(radii.name, (start, *rest)))
        values = sorted({mark.x for line in lines for mark in line.marks})
        yield Chart(
            f"{model} on {data}", f"eps, {norm}", "robust accuracy (%)", tuple(lines), _apart(values),
            words="; ".join(f"{line.name}: " + ", ".join(map(_said, line.marks)) for line in lines),
        )  # fmt: skip


def _said(mark: Mark) -> str:
    return f"{mark.y:.1f} % at {number(mark.x) if mark.x else 0}"


def cost_charts(entry: Entry) -> Iterator[Chart]:
    """What the attacks cost and what they left: gradients, and time, an image."""
    numbered = list(enumerate(entry.rows, start=1))
    seen = {row.attack: (str(place), row) for place, row in reversed(numbered)}
    rows = [(place, row) for place, row in reversed(seen.values()) if row in entry.counted]  # one seed
    for name, label, cost in (
        ("gradients", "gradients an image", gradients),
        ("time", "milliseconds an image", milliseconds),
    ):
        points = [(digits, cost(row), row) for digits, row in rows if cost(row) > 0]
        if not points:
            continue
        series = tuple(
            Series(digits, (Mark(value, *percent(row.accuracy)),), joined=False) for digits, value, row in points
        )
        values = [value for _, value, _ in points]
        words = "; ".join(f"{row.attack}: {value:.3g}, {row.accuracy.percent()}" for _, value, row in points)
        y_ticks = _around([mark for line in series for mark in line.marks])
        title = f"Robust accuracy against {name}"
        yield Chart(title, label, "robust accuracy (%)", series, decades(values), y_ticks, log_x=True, words=words)


def gradients(row: Row) -> float:
    """An image that was attacked."""
    return row.gradients


def milliseconds(row: Row) -> float:
    """An image that was attacked."""
    return 1000 * row.seconds / max(1, row.attacked)


def percent(share: Interval) -> tuple[float, float, float]:
    """A share and its ends in percent."""
    return 100 * share.value, 100 * share.low, 100 * share.high


def _around(marks: Sequence[Mark]) -> tuple[float, ...]:
    """Ticks of percents that hold all intervals."""
    low, high = min(mark.low for mark in marks), max(mark.high for mark in marks)
    step = 5 if high - low <= 25 else 10 if high - low <= 50 else 20
    return tuple(float(tick) for tick in range(int(low // step) * step, 101, step) if tick < high + step)


def decades(values: Sequence[float]) -> Ticks:
    """Ticks 1, 2, 5, 10 ... around the values, fewer where they span much."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    below = max((tick for tick in ticks if tick <= min(values)), default=ticks[0])
    above = min((tick for tick in ticks if tick >= max(values)), default=ticks[-1])
    return tuple((tick, f"{tick:g}") for tick in ticks if below <= tick <= above)


def _on_axis(curve: RankCurve, ticks: Ticks) -> Iterator[Mark]:
    for rank, accuracy in zip(curve.ranks, curve.accuracy, strict=True):
        yield Mark(rank if math.isfinite(rank) else ticks[-1][0], *percent(accuracy))


def _apart(values: Sequence[float]) -> Ticks:
    """Ticks at the values, those left out that would touch the one before."""
    kept: list[float] = []
    for value in values:
        if not kept or value - kept[-1] >= (values[-1] - values[0]) / 9:
            kept.append(value)
    return tuple((value, number(value) if value else "0") for value in kept)
