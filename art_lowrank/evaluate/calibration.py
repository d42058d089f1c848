"""How much an attack on a model takes, tried on a few images of its first cell; nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch

from art_lowrank.evaluate.bench import Bench
from art_lowrank.evaluate.cell import run_cell
from art_lowrank.evaluate.outcome import failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.record import Record, pack, unpack

PROBE = 2.0  # seconds one trial may take, if a few images do not take more
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
    few, _ = _run(cell, bench, LEAST, None)  # loads the model
    if failed(few):
        return few, _failure(few)
    (first, seconds), most = _run(cell, bench, LEAST, None), _most(cell, bench)
    n = _more(seconds / first.n, most)
    record, seconds = _steady(cell, bench, n, None) if n > first.n else (first, seconds)
    return record, _tried(record, seconds, record.n, first, most)


def _attacked(cell: Cell, bench: Bench, clean: Record) -> Tried:
    """An attack on few images and, where that went quickly, on more."""
    first, seconds = _run(cell, bench, LEAST, clean)
    if failed(first):
        return _failure(first)
    most = min(_most(cell, bench), clean.n)
    n = _more(seconds / first.n, most)
    record, seconds = _steady(cell, bench, n, clean) if n > first.n else (first, seconds)
    found = _tried(record, seconds, sum(unpack(str(record.values["attacked"]), record.n)), first, _most(cell, bench))
    return found._replace(right=_number(clean, "right") / clean.n)


def _steady(cell: Cell, bench: Bench, n: int, clean: Record | None) -> tuple[Record, float]:
    """The fastest of three, where that is soon done: the machine may have been busy with something else."""
    record, best = _run(cell, bench, n, clean)
    for _ in range(2 if best < PROBE / 4 else 0):
        best = min(best, _run(cell, bench, n, clean)[1])
    return record, best


def _run(cell: Cell, bench: Bench, n: int, clean: Record | None) -> tuple[Record, float]:
    """The cell cut to n images, and the seconds that took."""
    part = replace(cell, stop=min(cell.stop, cell.start + n), needs=cell.needs[:1])
    before = {} if clean is None else {cell.needs[0]: _cut(clean, part.stop - part.start)}
    started = time.perf_counter()
    record = run_cell(part, bench, before).record
    return record, time.perf_counter() - started


def _cut(clean: Record, n: int) -> Record:
    """A clean record of its first n images."""
    robust = unpack(str(clean.values["robust"]), clean.n)[:n]
    return replace(clean, n=n, values={**clean.values, "robust": pack(robust), "right": sum(robust)})


def _tried(record: Record, seconds: float, attacked: int, first: Record, most: int) -> Tried:
    """What a record says an attacked image takes."""
    images, right = max(1, attacked), _number(record, "right")
    forwards, gradients = (_number(record, name) / images for name in ("forwards", "gradients"))
    return Tried(attacked, seconds / images, forwards, gradients, right / images, _bytes(record, first, most))


def _bytes(record: Record, first: Record, most: int) -> int | None:
    """Peak memory with `most` images at once, on the line through two trials."""
    peak, before = record.volatile["peak_bytes"], first.volatile["peak_bytes"]
    if not isinstance(peak, int) or not isinstance(before, int):
        return None
    slope = max(0.0, (peak - before) / (record.n - first.n)) if record.n > first.n else 0.0
    return round(peak + slope * max(0, most - record.n))


def _failure(record: Record) -> Tried:
    return Tried(0, 0.0, 0.0, 0.0, 0.0, None, error=str(record.values["error"]))


def _most(cell: Cell, bench: Bench) -> int:
    return min(bench.batch_size, cell.stop - cell.start)


def _more(seconds: float, most: int) -> int:
    """Images that fit into the time of a trial."""
    return min(most, int(PROBE / max(seconds, 1e-9)))


def _number(record: Record, name: str) -> float:
    value = record.values[name]
    assert isinstance(value, int | float)
    return float(value)
