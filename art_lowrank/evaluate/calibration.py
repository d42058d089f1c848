"""How much an attack on a model takes, tried on a few images of its first cell; nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch

from art_lowrank.evaluate.bench import Bench
from art_lowrank.evaluate.cell import run_cell
from art_lowrank.evaluate.counting import Cost, counted
from art_lowrank.evaluate.outcome import failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.record import Record, pack, unpack

PROBE = 2.0  # seconds after which a trial is cut off, at the next pass through the model
LEAST = 8  # images of the first trial, which warms up as well
BUDGET = 60.0  # seconds after which the rest is estimated from what is known

Key: TypeAlias = tuple[str, str, str]  # model, data, attack


class Tried(NamedTuple):
    """One attack on one model, or none: what it takes an attacked image."""

    images: int  # it was tried on
    seconds: float
    forwards: float
    gradients: float
    stands: float  # share of the images it was tried on that stand
    bytes: int | None  # at the peak, with as many images as a batch has
    right: float = 1.0  # share of all images that are attacked
    error: str = ""


class Calibration(NamedTuple):
    """What was tried on one device."""

    device: str
    threads: int
    seconds: float  # that it took
    tried: Mapping[Key, Tried]


def key_of(cell: Cell) -> Key:
    """What is the same for all its slices and seeds."""
    return cell.model, cell.data, cell.attack


def firsts(cells: Sequence[Cell], todo: Sequence[Cell]) -> list[Cell]:
    """The first cell of everything that is to do, and the clean ones they start from; in their order."""
    wanted = {key_of(cell) for cell in todo} | {(cell.model, cell.data, CLEAN) for cell in todo}
    found: dict[Key, Cell] = {}
    for cell in cells:
        if key_of(cell) in wanted:
            found.setdefault(key_of(cell), cell)
    return list(found.values())


def calibrate(bench: Bench, cells: Sequence[Cell], budget: float = BUDGET) -> Calibration:
    """Try these cells, every clean one before those that start from it, until the time is spent."""
    started, tried = time.perf_counter(), dict[Key, Tried]()
    clean: Record | None = None
    for cell in cells:
        if tried and time.perf_counter() - started > budget:
            break
        if cell.attack == CLEAN:
            clean, tried[key_of(cell)] = _clean(cell, bench)
        elif clean is not None and not failed(clean):
            tried[key_of(cell)] = _attacked(cell, bench, clean)
    return Calibration(bench.device_name, torch.get_num_threads(), time.perf_counter() - started, tried)


def _clean(cell: Cell, bench: Bench) -> tuple[Record, Tried]:
    """The model without an attack, on few images and then on more."""
    loaded = _trial(cell, bench, LEAST, None)
    assert loaded.record is not None
    if failed(loaded.record):
        return loaded.record, _failure(loaded.record)
    few = _trial(cell, bench, LEAST, None)
    most = _most(cell, bench)
    n = _more(few, most)
    found = _trial(cell, bench, n, None) if n > few.n else few
    assert found.record is not None  # clean trials are not cut off
    return found.record, _tried(found, few, found.n, most)


def _attacked(cell: Cell, bench: Bench, clean: Record) -> Tried:
    """An attack on few images, which says how many passes they take, and on more, which says how long a pass takes."""
    few = _trial(cell, bench, LEAST, clean, PROBE)
    if few.record is not None and failed(few.record):
        return _failure(few.record)
    most = _most(cell, bench)
    n = min(_more(few, most), clean.n)
    found = _steady(cell, bench, n, clean) if n > few.n else few
    right = _number(clean, "right") / clean.n
    if found.record is not None:
        attacked = sum(unpack(str(found.record.values["attacked"]), found.n))
        return _tried(found, few, attacked, most)._replace(right=right)
    return _guessed(found, few, bench.attacks[cell.attack].steps, most, right)


def _guessed(found: Trial, few: Trial, steps: int, most: int, right: float) -> Tried:
    """Of an attack that was cut off: its passes from fewer images, or from its steps; its pace as far as it came."""
    whole = few.record is not None
    images = max(1.0, right * (few.n if whole else found.n))
    known = few.cost if whole else found.cost
    done = max(known.gradients, known.forwards / 2, 1) / images
    grown = 1.0 if whole else max(1.0, steps / done)
    forwards, gradients = (grown * count / images for count in (known.forwards, known.gradients))
    pace = _pace(found, few, most)
    return Tried(found.n, forwards * pace, forwards, gradients, 0.5, _bytes(found, few, most), right)


def _pace(found: Trial, few: Trial, most: int) -> float:
    """Seconds of a pass an image, with `most` of them at once, on the line through two trials."""
    long, short = (trial.seconds * trial.n / max(1, trial.cost.forwards) for trial in (found, few))
    return _grown(long, short, found.n, few.n, most) / max(most, found.n)


def _grown(value: float, before: float, n: int, less: int, most: int) -> float:
    """What was seen with n images, with `most` of them: on the line through what fewer gave."""
    slope = max(0.0, (value - before) / (n - less)) if n > less else 0.0
    return value + slope * max(0, most - n)


class Trial(NamedTuple):
    """A cell cut to n images, and what that took; no record if it was cut off."""

    n: int
    record: Record | None
    cost: Cost
    seconds: float


class _TimeUp(BaseException):
    """Not an error of the model or the attack, which a cell would take down."""


def _steady(cell: Cell, bench: Bench, n: int, clean: Record) -> Trial:
    """The fastest of three, where that is soon done: the machine may have been busy with something else."""
    found = _trial(cell, bench, n, clean, PROBE)
    for _ in range(2 if found.record is not None and found.seconds < PROBE / 4 else 0):
        found = min(found, _trial(cell, bench, n, clean), key=lambda trial: trial.seconds)
    return found


def _trial(cell: Cell, bench: Bench, n: int, clean: Record | None, limit: float | None = None) -> Trial:
    """Run the cell on n images; past the limit it ends with the next pass through the model."""
    part = replace(cell, stop=min(cell.stop, cell.start + n), needs=cell.needs[:1])
    size, record = part.stop - part.start, None
    before = {} if clean is None else {cell.needs[0]: _cut(clean, size)}
    started = time.perf_counter()

    def look(*_: object) -> None:
        if limit is not None and time.perf_counter() - started > limit:
            raise _TimeUp

    try:
        model = bench.subject(cell.model).model
    except (Exception, SystemExit):
        return Trial(size, run_cell(part, bench, before).record, Cost(), 0.0)  # which says what is the matter
    hook = model.register_forward_pre_hook(look)
    try:
        with suppress(_TimeUp), counted(model, bench.device) as cost:
            record = run_cell(part, bench, before).record
    finally:
        hook.remove()
    return Trial(size, record, cost, time.perf_counter() - started)


def _cut(clean: Record, n: int) -> Record:
    """A clean record of its first n images."""
    robust = unpack(str(clean.values["robust"]), clean.n)[:n]
    return replace(clean, n=n, values={**clean.values, "robust": pack(robust), "right": sum(robust)})


def _tried(found: Trial, few: Trial, attacked: int, most: int) -> Tried:
    """What an attacked image took."""
    assert found.record is not None
    images = max(1, attacked)
    forwards, gradients = (_number(found.record, name) / images for name in ("forwards", "gradients"))
    right = _number(found.record, "right") / images
    return Tried(attacked, found.seconds / images, forwards, gradients, right, _bytes(found, few, most))


def _bytes(found: Trial, few: Trial, most: int) -> int | None:
    """Peak memory with `most` images at once, on the line through two trials."""
    peak, before = found.cost.peak_bytes, few.cost.peak_bytes
    if peak is None or before is None:
        return None
    return round(_grown(peak, before, found.n, few.n, most))


def _failure(record: Record) -> Tried:
    return Tried(0, 0.0, 0.0, 0.0, 0.0, None, error=str(record.values["error"]))


def _most(cell: Cell, bench: Bench) -> int:
    return min(bench.batch_size, cell.stop - cell.start)


def _more(few: Trial, most: int) -> int:
    """Images of which one pass takes half of a trial's time at most, by what a few took."""
    pace = few.seconds / max(1, few.cost.forwards)
    return max(min(few.n, most), min(most, int(PROBE / 2 / max(pace, 1e-9))))


def _number(record: Record, name: str) -> float:
    value = record.values[name]
    assert isinstance(value, int | float)
    return float(value)
