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
from art_lowrank.statistics import mean_interval

SHARES = (0.1, 0.25, 0.5)  # of full rank, at which energies are printed
RANKS = ("stable", "ratio", "entropy")
FLOOR, CEILING = 1e-4, 1e2  # of the relative change, as it is drawn
QUARTILES = (0.25, 0.5, 0.75)
HEAD = ("model", "data", "threat", "attack", "measure", "k", "n", "mean", "low", "high", "quartile", "median", "upper")


def groups(found: Sequence[Measured]) -> Iterator[list[Measured]]:
    """A model on some data with one threat each."""
    for key in dict.fromkeys((one.model, one.data, one.threat) for one in found):
        yield [one for one in found if (one.model, one.data, one.threat) == key]


def lines(found: Sequence[Measured]) -> Iterator[str]:
    """A table for each model and threat."""
    for group in groups(found):
        first, full = group[0], max(one.of.energy.shape[1] for one in group)
        places = _places(full)
        yield f"{first.model} on {first.data}, {first.threat}: rank of {full}; means, of the changes medians"
        names = [f"energy in {k}" for k in places] + list(RANKS) + [f"change of {k}" for k in _ends(full)]
        wide = max(len(one.attack) for one in group)
        yield f"  {'':{wide}s} {'images':>6s}  {'  '.join(names)}"
        for one in group:
            numbers = _numbers(one, places, _ends(full)) if one.n else ["-"] * len(names)
            aligned = "  ".join(f"{text:>{len(name)}s}" for name, text in zip(names, numbers, strict=True))
            counts = ((one.unmoved, "unmoved"), (one.unreadable, "with NaN or infinity"))
            remarks = ", ".join(f"{count} {word}" for count, word in counts if count)
            yield f"  {one.attack:{wide}s} {one.n:6d}  {aligned}{f'  ({remarks})' if remarks else ''}"
        yield ""


def _places(full: int) -> list[int]:
    return list(dict.fromkeys(max(1, round(share * full)) for share in SHARES))


def _ends(full: int) -> list[int]:
    """The first singular value, the middle one, the last."""
    return list(dict.fromkeys((1, max(1, full // 2), full)))


def _numbers(one: Measured, places: Sequence[int], ends: Sequence[int]) -> list[str]:
    energies = [f"{100 * float(one.of.energy[:, k - 1].mean()):.1f}%" for k in places]
    ranks = [f"{float(getattr(one.of, name).mean()):.2f}" for name in RANKS]
    changes = [float(one.of.change[:, k - 1].nanmedian()) for k in ends]
    return [*energies, *ranks, *("-" if math.isnan(value) else f"{value:.3g}" for value in changes)]


def csv_text(found: Sequence[Measured]) -> str:
    """Everything, long: a line for each measure and singular value that some image has."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEAD)
    for one in found:
        for measure, k, values in _columns(one):
            known = values[torch.isfinite(values)]
            if len(known):
                quartiles = known.quantile(torch.tensor(QUARTILES, dtype=known.dtype)).tolist()
                numbers = [*mean_interval(known.tolist()), *quartiles]
                texts = (f"{number:.6g}" if math.isfinite(number) else "" for number in numbers)
                writer.writerow([one.model, one.data, one.threat, one.attack, measure, k, len(known), *texts])
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
    for place, group in enumerate(groups([one for one in found if one.n]), start=1):
        attacks, noise = ([one for one in group if (one.attack == NOISE) == control] for control in (False, True))
        shown = [*attacks[: TOGETHER - 1], *noise]
        full = group[0].of.energy.shape[1]
        ticks = tuple((float(k), str(k)) for k in sorted({1, *(2**i for i in range(11) if 2**i <= full), full}))
        ticks = tuple(tick for tick in ticks if tick[0] == full or full - tick[0] > 0.2 * tick[0])
        more = f", {len(shown) - 1} of {len(attacks)} attacks" if len(attacks) > TOGETHER - 1 else ""
        title = f"{group[0].model} on {group[0].data}, {group[0].threat}{more}"
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
