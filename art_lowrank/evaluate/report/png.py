"""The page's charts as PNG files, with matplotlib."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec

from art_lowrank.evaluate.report.chart import Chart, Series

# Okabe and Ito's colours, which most kinds of colour blindness leave apart, without the yellow; as in the page
COLOURS = ("#0072b2", "#c8500a", "#00805a", "#b0508a", "#7d6400", "#4b4b4b", "#6a4fb3", "#a3341c")
LONG = 56  # letters of a name
MARKERS, LINES = "os^Dv" + "Ph" + "x", ("-", "--", ":", "-.")


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def png(chart: Chart) -> bytes:
    """The picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has
        return _png(chart)


def _png(chart: Chart) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2 + 0.2 * len(chart.series)), layout="constrained")
    ax = figure.subplots()
    if chart.log_x:
        ax.set_xscale("log")
    if chart.log_y:
        ax.set_yscale("log")
    for place, series in enumerate(chart.series):
        _draw(ax, series, place)
    ax.set_xticks([x for x, _ in chart.ticks], labels=[_plain(text) for _, text in chart.ticks])
    ax.minorticks_off()
    ax.set_title(_plain(chart.title), fontsize=10)
    ax.set(xlabel=_plain(chart.x_label), ylabel=_plain(chart.y_label), ylim=(min(chart.y_ticks), max(chart.y_ticks)))
    ax.grid(axis="y", alpha=0.25)
    if all(series.joined for series in chart.series):
        figure.legend(loc="outside lower center", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _draw(ax: object, series: Series, place: int) -> None:
    colour = COLOURS[place % len(COLOURS)]
    x, y = [mark.x for mark in series.marks], [mark.y for mark in series.marks]
    line = LINES[place % len(LINES)] if series.joined else "none"
    marker = MARKERS[place % len(MARKERS)]
    ax.plot(x, y, line, marker=marker, markersize=5, color=colour, label=_label(series))  # type: ignore[attr-defined]
    low, high = [mark.low for mark in series.marks], [mark.high for mark in series.marks]
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)  # type: ignore[attr-defined]
    if series.ring is not None:
        at = series.marks[series.ring]
        ax.plot(at.x, at.y, "o", markersize=12, markerfacecolor="none", color=colour)  # type: ignore[attr-defined]


def _label(series: Series) -> str:
    return _plain(series.name) + (f" ({series.note.replace('⚑ ', '')})" if series.note else "")


def _plain(text: str) -> str:
    """Names of models are no formulas, and some are long."""
    short = text if len(text) <= LONG else f"{text[: LONG // 2]} ... {text[-LONG // 2 :]}"
    return short.replace("$", r"\$").replace("_", " _", short.startswith("_"))  # else it is left out of legends
