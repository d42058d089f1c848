"""Pictures of curves, with matplotlib (`pip install 'art-lowrank[report]'`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from art_lowrank.attack import Curve
from art_lowrank.statistics import wilson


def plot_curves(curves: Curve | Mapping[str, Curve], ax: Any = None) -> Any:
    """Robust accuracy against rank or eps, with 95 % intervals; several curves by name. Returns the axes.

    Dotted lines are the clean accuracies; a ring marks the effective rank.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plot_curves needs matplotlib; install it with: pip install 'art-lowrank[report]'") from error
    named = {"": curves} if isinstance(curves, Curve) else dict(curves)
    if any(not len(curve.breaking) for curve in named.values()):
        raise ValueError("a curve of no images cannot be drawn; leave it out")
    kinds = {curve.along for curve in named.values()}
    if len(kinds) != 1:
        raise ValueError(f"curves over {sorted(kinds) or 'nothing'} cannot share axes; give curves of one kind")
    ax = pyplot.subplots(figsize=(6, 4), layout="constrained")[1] if ax is None else ax
    for name, curve in named.items():
        _draw(ax, name, curve)
    if kinds == {"rank"}:
        ranks = sorted({int(value) for curve in named.values() for value in curve.values})
        ax.set_xscale("log", base=2)
        ax.set_xticks(ranks, labels=[str(rank) for rank in ranks])
        ax.minorticks_off()
    ax.set(xlabel=kinds.pop(), ylabel="robust accuracy (%)", ylim=(0, 100))
    if any(named):
        ax.legend()
    return ax


def _draw(ax: Any, name: str, curve: Curve) -> None:
    n = len(curve.breaking)
    bands = [wilson(round(share * n), n) for share in curve.accuracy]
    values = [100 * band.value for band in bands]
    (line,) = ax.plot(curve.values, values, marker="o", markersize=4, label=name or curve.attack)
    ax.fill_between(
        curve.values,
        [100 * band.low for band in bands],
        [100 * band.high for band in bands],
        color=line.get_color(),
        alpha=0.15,
        linewidth=0,
    )
    ax.axhline(100 * curve.clean_accuracy, color=line.get_color(), linestyle=":", linewidth=1)
    if curve.along == "rank":
        at = curve.values.index(float(curve.effective_rank))
        ax.plot(curve.values[at], values[at], "o", markersize=10, markerfacecolor="none", color=line.get_color())
