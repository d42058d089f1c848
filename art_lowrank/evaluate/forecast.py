"""`art-lowrank evaluate --plan-only`: what an evaluation is going to take, and on what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from art_lowrank.evaluate.bench import Bench
from art_lowrank.evaluate.calibration import Calibration, Key, Tried, calibrate, firsts, key_of
from art_lowrank.evaluate.outcome import MARK, failed
from art_lowrank.evaluate.plan import CLEAN, Cell, Plan
from art_lowrank.evaluate.run import bench_of, cells_in
from art_lowrank.evaluate.schedule import urgencies
from art_lowrank.evaluate.store import Store, check_ours

MINUTE, HOUR, DAY = 60, 3600, 86400
MEANS = ("seconds", "forwards", "gradients", "stands", "right")  # of what was tried


class Kind(NamedTuple):
    """Devices of one kind, and what was tried on one of them."""

    workers: int
    calibration: Calibration
    share: float = 1.0  # of a device that a worker has; those that share one are together no faster than one


class Prober(Protocol):
    """Tries cells on every kind of device there is."""

    def __call__(self, cells: Sequence[Cell], bench: Bench) -> list[Kind]: ...


class Needs(NamedTuple):
    """What some cells take."""

    cells: int = 0
    images: float = 0.0  # that are attacked, or only classified in clean cells
    forwards: float = 0.0
    gradients: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    longest: float = 0.0  # seconds of the cells that have to wait for each other, at their longest

    def plus(self, other: Needs) -> Needs:
        """Both together, one after the other."""
        return Needs(
            self.cells + other.cells,
            self.images + other.images,
            self.forwards + other.forwards,
            self.gradients + other.gradients,
            self.seconds + other.seconds,
            max(self.bytes, other.bytes),
            max(self.longest, other.longest),
        )


class Forecast(NamedTuple):
    """What is to do, by model, on every kind of device."""

    cells: Sequence[Cell]
    todo: Sequence[Cell]
    kinds: Sequence[tuple[Kind, Mapping[str, Needs]]]

    @property
    def seconds(self) -> float:
        """With all workers of all kinds at work to the end."""
        paces = [1 / taken for kind, needs in self.kinds if (taken := on(kind, needs))]
        return 1 / sum(paces) if paces else 0.0

    @property
    def errors(self) -> dict[str, str]:
        """By model and attack what failed."""
        tried = (item for kind, _ in self.kinds for item in kind.calibration.tried.items())
        return {f"{model} {attack}": found.error for (model, _, attack), found in tried if found.error}


def forecast(plan: Plan, out: str | Path, *, retry: bool = False, prober: Prober | None = None) -> Forecast:
    """Try the first cells for a minute at most and work out the rest; the folder is read if it is there.

    prober      tries cells elsewhere; None: here
    """
    check_ours(Path(out))
    bench = bench_of(plan if prober is None else replace(plan, device="cpu"))
    cells = cells_in(bench, plan)
    todo = _todo(cells, Path(out), retry)
    if not todo:
        return Forecast(cells, todo, [])
    trials = firsts(cells, todo)
    kinds = [Kind(1, calibrate(bench, trials))] if prober is None else prober(trials, bench)
    return Forecast(cells, todo, [(kind, needs_of(todo, bench, kind.calibration.tried)) for kind in kinds])


def _todo(cells: Sequence[Cell], out: Path, retry: bool) -> list[Cell]:
    if not (out / MARK).exists():
        return list(cells)
    with Store(out) as store:
        found = store.read(cell.id for cell in cells)
    return [cell for cell in cells if cell.id not in found or (retry and failed(found[cell.id]))]


def needs_of(todo: Sequence[Cell], bench: Bench, tried: Mapping[Key, Tried]) -> dict[str, Needs]:
    """By model what its cells take; what was not tried takes what it took on other models, or as long as its steps."""
    keys = {cell.id: key_of(cell) for cell in todo}
    each = {cell.id: _cell(cell, keys, bench, tried) for cell in todo}
    chains = urgencies(todo, lambda cell: each[cell.id].seconds)
    found: dict[str, Needs] = {}
    for cell in todo:
        needs = each[cell.id]._replace(longest=chains[cell.id])
        found[cell.model] = found.get(cell.model, Needs()).plus(needs)
    return found


def _cell(cell: Cell, keys: Mapping[str, Key], bench: Bench, tried: Mapping[Key, Tried]) -> Needs:
    """What one cell takes; nothing, if its model fails."""
    clean = tried.get((cell.model, cell.data, CLEAN))
    if clean is not None and clean.error:
        return Needs(1)
    trial = tried.get(key_of(cell)) or _likely(cell, bench, tried)
    before = [tried[keys[need]].stands for need in cell.needs[1:] if keys.get(need) in tried]
    images = (cell.stop - cell.start) * trial.right * min(before, default=1.0)
    forwards, gradients, seconds = (images * cost for cost in (trial.forwards, trial.gradients, trial.seconds))
    return Needs(1, images, forwards, gradients, seconds, trial.bytes or 0)


def _likely(cell: Cell, bench: Bench, tried: Mapping[Key, Tried]) -> Tried:
    """The mean of the same attack elsewhere; or its steps, at the mean pace of all that was tried."""
    fine = {key: trial for key, trial in tried.items() if not trial.error}
    alike = [trial for key, trial in fine.items() if key[2] == cell.attack]
    if alike:
        mean: dict[str, Any] = {name: fmean(getattr(trial, name) for trial in alike) for name in MEANS}
        return Tried(0, **mean, bytes=max(trial.bytes or 0 for trial in alike))
    steps = 1 if cell.attack == CLEAN else bench.attacks[cell.attack].steps
    paces = [trial.seconds / max(1.0, trial.forwards + 2 * trial.gradients) for trial in fine.values()]
    return Tried(0, 3 * steps * fmean(paces or [0.0]), steps, steps, 1.0, None)


def on(kind: Kind, needs: Mapping[str, Needs]) -> float:
    """Seconds on all workers of a kind: no less than the cells that wait for each other."""
    found, devices = total(needs), max(1.0, kind.workers * kind.share)
    return max(found.seconds / devices, found.longest)


def total(needs: Mapping[str, Needs]) -> Needs:
    """All models together."""
    found = Needs()
    for row in needs.values():
        found = found.plus(row)
    return found


def lines(found: Forecast) -> Iterator[str]:
    """The forecast for people."""
    yield f"{len(found.cells)} cells, {len(found.cells) - len(found.todo)} of them done, {len(found.todo)} to run"
    for kind, needs in found.kinds:
        yield from _table(kind, needs)
    if len(found.kinds) > 1:
        yield f"\nAll together: about {duration(found.seconds)}"
    for name, error in found.errors.items():
        yield f"{name} failed: {error}"


def _table(kind: Kind, needs: Mapping[str, Needs]) -> Iterator[str]:
    """One kind of device."""
    wide = max(map(len, [*needs, "model"]))
    yield f"\n{'model':{wide}s}   cells     images     forwards    gradients      time  memory"
    for name, row in [*needs.items(), ("together", total(needs))] if len(needs) > 1 else needs.items():
        counts = f"{row.images:9,.0f}  {row.forwards:11,.0f}  {row.gradients:11,.0f}"
        yield f"{name:{wide}s}  {row.cells:6d}  {counts}  {duration(row.seconds):>8s}  {size(row.bytes)}"
    calibration, seconds = kind.calibration, on(kind, needs)
    workers = f"{kind.workers} workers" if kind.workers > 1 else "1 worker"
    threads = f", threads: {calibration.threads}" if calibration.device == "cpu" else ""
    yield f"On {workers} ({calibration.device}{threads}) about {duration(seconds)}; {_trials(calibration)}"


def _trials(calibration: Calibration) -> str:
    fine = [trial.images for trial in calibration.tried.values() if not trial.error]
    most = f"{min(fine)} to {max(fine)} images" if fine else "no image"
    return f"{len(calibration.tried)} first cells tried on {most} in {duration(calibration.seconds)}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, as one would say it."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{ceil(seconds)} s"


def size(count: int) -> str:
    """Bytes in megabytes or gigabytes."""
    return "unknown" if not count else f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
