"""The measures as lines to print, as CSV, and as two charts a model."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from art_lowrank.evaluate.perturbations.measure import NOISE, Measured
from art_lowrank.evaluate.report.chart import TOGETHER, Chart, Mark, Series
from art_lowrank.statistics import Interval, mean_interval

SHARES = (0.1, 0.25, 0.5)  # of full rank, at which energies are printed
RANKS = ("stable", "ratio", "entropy")
FLOOR, CEILING = 1e-4, 1e2  # of the relative change, as it is drawn
QUARTILES = (0.25, 0.5, 0.75)
HEAD = ("model", "data", "threat", "attack", "seed", "measure", "k", "n", "mean", "low", "high")


def groups(found: Sequence[Measured]) -> Iterator[list[Measured]]:
    """A model with one threat each."""
    for key in dict.fromkeys((one.model, one.data, one.threat) for one in found):
        yield [one for one in found if (one.model, one.data, one.threat) == key]


def interval(values: Tensor) -> Interval | None:
    """The mean over the images that have the value."""
    known = values[torch.isfinite(values)].tolist()
    return mean_interval(known) if known else None


def lines(found: Sequence[Measured]) -> Iterator[str]:
    """A table for each model and threat."""
    for group in groups(found):
        first = group[0]
        full = first.of.energy.shape[1]
        places = [max(1, round(share * full)) for share in SHARES]
        yield f"{first.model}, {first.threat}: means over images, rank of {full}"
        wide = max(len(one.attack) for one in group)
        head = [f"{'energy in ' + str(k):>13s}" for k in places]
        values = f"change of value 1, {full // 2}, {full}"
        yield f"  {'':{wide}s} {'images':>6s} {' '.join(head)}  stable   ratio entropy   {values}"
        for one in group:
            energies = " ".join(f"{100 * _mean(one.of.energy[:, k - 1]):12.1f}%" for k in places)
            ranks = " ".join(f"{_mean(getattr(one.of, name)):7.2f}" for name in RANKS)
            changes = "  ".join(_number(one.of.change[:, k - 1]) for k in (1, max(1, full // 2), full))
            unmoved = f"  ({one.unmoved} unmoved)" if one.unmoved else ""
            yield f"  {one.attack:{wide}s} {one.n:6d} {energies} {ranks}   {changes}{unmoved}"
        yield ""


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def _number(values: Tensor) -> str:
    """A dash where no image has that singular value."""
    found = _mean(values)
    return "-" if math.isnan(found) else f"{found:.3g}"


def csv_text(found: Sequence[Measured]) -> str:
    """Everything, long: a line for each measure and singular value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEAD)
    for one in found:
        seed = "" if one.seed is None else one.seed
        for measure, k, values in _columns(one):
            known = interval(values)
            if known is not None:
                n = int(torch.isfinite(values).sum())
                numbers = (f"{number:.6g}" for number in known)
                writer.writerow([one.model, one.data, one.threat, one.attack, seed, measure, k, n, *numbers])
    return buffer.getvalue()


def _columns(one: Measured) -> Iterator[tuple[str, int | str, Tensor]]:
    for measure in ("change", "shift", "energy"):
        values = getattr(one.of, measure)
        for k in range(values.shape[1]):
            yield measure, k + 1, values[:, k]
    for measure in RANKS:
        yield measure, "", getattr(one.of, measure)


def charts(found: Sequence[Measured]) -> Iterator[tuple[str, Chart]]:
    """By name of the file: what happens to the images' singular values, and where the perturbations' energy lies."""
    for place, group in enumerate(groups(found), start=1):
        shown = [one for one in group if one.attack != NOISE][: TOGETHER - 1]
        shown += [one for one in group if one.attack == NOISE]
        full = group[0].of.energy.shape[1]
        ticks = tuple((float(k), str(k)) for k in sorted({1, *(2**i for i in range(11) if 2**i <= full), full}))
        ticks = tuple(tick for tick in ticks if tick[0] == full or full - tick[0] > 0.2 * tick[0])
        title = f"{group[0].model}, {group[0].threat}"
        yield f"change-{place}", Chart(
            title, "singular value no.", "its relative change", _series(shown, "change", _on_log), ticks,
            y_ticks=(FLOOR, 1e-3, 1e-2, 0.1, 1, 10, CEILING), log_x=True, log_y=True,
        )  # fmt: skip
        yield f"energy-{place}", Chart(
            title, "so many singular values", "hold so much of the perturbation (%)",
            _series(shown, "energy", lambda value: 100 * value), ticks, log_x=True,
        )  # fmt: skip


def _on_log(value: float) -> float:
    return min(max(value, FLOOR), CEILING)


def _series(group: Sequence[Measured], measure: str, scale: Callable[[float], float]) -> tuple[Series, ...]:
    """Median and quartiles over images: a few images of small singular values would carry off a mean."""
    found = []
    for one in group:
        values: Tensor = getattr(one.of, measure)
        low, middle, high = values.nanquantile(torch.tensor(QUARTILES, dtype=values.dtype), dim=0).tolist()
        places = (k for k, value in enumerate(middle) if not math.isnan(value))
        marks = tuple(Mark(k + 1.0, *(scale(line[k]) for line in (middle, low, high))) for k in places)
        found.append(Series(one.attack, marks))
    return tuple(found)
