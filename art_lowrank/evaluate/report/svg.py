"""A chart as SVG: colours are the page's, every line has a marker and a pattern of its own, every point a tooltip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup, escape

from art_lowrank.evaluate.report.chart import TOGETHER, Chart, Mark, Series

RIGHT, TOP, BOTTOM = 12.0, 10.0, 40.0  # margins
DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3", "10 4", "4 2 1 2", "12 3 3 3")
SHAPES = (  # around the origin, within a circle of radius 4
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.5-3.5h7v7h-7z", "M0-4.6L4.2 3.4H-4.2z", "M0-4.8L4.8 0L0 4.8L-4.8 0z",
    "M0 4.6L4.2-3.4H-4.2z", "M-1.4-4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
    "M-4.2-2.4L0-4.8L4.2-2.4V2.4L0 4.8L-4.2 2.4z", "M-4-4L4 4M4-4L-4 4",
)  # fmt: skip


class Frame(NamedTuple):
    """Where things lie."""

    chart: Chart
    width: float
    height: float

    @property
    def left(self) -> float:
        """The left margin: the label of the axis, and the longest of its numbers."""
        return 30 + 8.0 * max(3, *(len(f"{value:g}") for value in self.chart.y_ticks))

    def x(self, value: float) -> float:
        """A value of the horizontal axis in units of the picture."""
        low, high = self.chart.x_range
        if self.chart.log_x:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.left + 8 + (value - low) / (high - low) * (self.width - self.left - RIGHT - 16), 1)

    def y(self, value: float) -> float:
        """A value of the vertical axis in units of the picture; what lies outside is put on the edge."""
        low, high = min(self.chart.y_ticks), max(self.chart.y_ticks)
        value = min(max(value, low), high)
        if self.chart.log_y:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM), 1)


def svg(chart: Chart, width: float = 480, height: float = 290) -> Markup:
    """The picture, with its words for screen readers."""
    frame = Frame(chart, width, height)
    parts = [*_axes(frame)]
    for place, series in enumerate(chart.series):
        parts += _line(frame, series, place % TOGETHER)
    label = escape(f"{chart.title}. {chart.words}" if chart.words else chart.title)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">'
    return Markup(head + "".join(parts) + "</svg>")


def key(place: int) -> Markup:
    """The sample of a line for its legend."""
    place %= TOGETHER
    dash = f' stroke-dasharray="{DASHES[place]}"' if DASHES[place] else ""
    return Markup(
        f'<svg class="key c{place}" viewBox="0 0 34 12" aria-hidden="true"><path class="l" d="M1 6H33"{dash}/>'
        f'<path class="m" d="{SHAPES[place]}" transform="translate(17 6)"/></svg>'
    )


def _axes(frame: Frame) -> Iterator[str]:
    chart, left, bottom, right = frame.chart, frame.left, frame.height - BOTTOM, frame.width - RIGHT
    for value in chart.y_ticks:
        y = frame.y(value)
        yield f'<path class="g" d="M{left:g} {y}H{right:g}"/>'
        yield f'<text class="t e" x="{left - 6:g}" y="{y + 4:g}">{value:g}</text>'
    for value, text in chart.ticks:
        x = frame.x(value)
        yield f'<path class="g" d="M{x} {bottom:g}v4"/>'
        yield f'<text class="t x" x="{x}" y="{bottom + 17:g}">{escape(text)}</text>'
    middle = (left + right) / 2
    yield f'<text class="t x" x="{middle:g}" y="{frame.height - 5:g}">{escape(chart.x_label)}</text>'
    turn = f'transform="rotate(-90 11 {(TOP + bottom) / 2:g})"'
    yield f'<text class="t x" x="11" y="{(TOP + bottom) / 2:g}" {turn}>{escape(chart.y_label)}</text>'


def _line(frame: Frame, series: Series, place: int) -> Iterator[str]:
    points = [(frame.x(mark.x), frame.y(mark.y)) for mark in series.marks]
    yield f'<g class="c{place}">'
    if series.joined and len(points) > 1:
        above = " ".join(f"{x} {frame.y(mark.high)}" for (x, _), mark in zip(points, series.marks, strict=True))
        below = " ".join(
            f"{x} {frame.y(mark.low)}" for (x, _), mark in reversed(list(zip(points, series.marks, strict=True)))
        )
        dash = f' stroke-dasharray="{DASHES[place]}"' if DASHES[place] else ""
        yield f'<path class="b" d="M{above} L{below}z"/>'
        yield f'<path class="l" d="M{" L".join(f"{x} {y}" for x, y in points)}"{dash}/>'
    for index, ((x, y), mark) in enumerate(zip(points, series.marks, strict=True)):
        yield _mark(frame, series, mark, x, y, place if series.joined else -1, index == series.ring)
    yield "</g>"


def _mark(frame: Frame, series: Series, mark: Mark, x: float, y: float, shape: int, ring: bool) -> str:
    """A point, or the number of a point without a line, between the ends of its interval."""
    if shape < 0:
        bar = f'<path class="w" d="M{x} {frame.y(mark.low)}V{frame.y(mark.high)}"/>'
        number = f'<text class="n" x="{x}" y="{y + 4:g}">{escape(series.name)}</text>'
        return f'{bar}<circle class="o" cx="{x}" cy="{y}" r="8"/>{number}'
    tip = f"{series.name}: {mark.x:.4g} {frame.chart.x_label}, {mark.y:.4g} [{mark.low:.4g}, {mark.high:.4g}]"
    whole = f'<g transform="translate({x} {y})"><title>{escape(tip)}</title>'
    halo = '<circle class="r" r="8.5"/>' if ring else ""
    return f'{whole}{halo}<path class="m" d="{SHAPES[shape]}"/></g>'
