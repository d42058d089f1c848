"""The evaluation itself: plan minus done, cell by cell, any number of processes in one folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from tqdm import tqdm

from art_lowrank.evaluate.bench import Bench
from art_lowrank.evaluate.catalog.attacks import attack_entry
from art_lowrank.evaluate.catalog.data import data_entry
from art_lowrank.evaluate.catalog.models import model_entry
from art_lowrank.evaluate.cell import run_cell
from art_lowrank.evaluate.outcome import failed
from art_lowrank.evaluate.plan import CLEAN, Cell, Plan, cells_of, specs
from art_lowrank.evaluate.store import Store
from art_lowrank.record import Record

Again: TypeAlias = Mapping[str, int]  # cells to be run again, with the place of the record that gave them up
WAIT = 0.2  # seconds between looks at what another process is doing


class Evaluation(NamedTuple):
    """What was asked and what came out: records by the ids of their cells."""

    cells: Sequence[Cell]
    bench: Bench
    records: Mapping[str, Record]

    @property
    def failures(self) -> list[Record]:
        """Cells that were given up."""
        return [record for record in self.records.values() if failed(record)]


def evaluate(plan: Plan, out: str | Path, *, retry: bool = False, verbose: bool = True) -> Evaluation:
    """Run what the folder does not have yet; `retry` runs cells again that failed before."""
    bench = bench_of(plan)
    cells = cells_of(
        {name: entry.meaning for name, entry in bench.models.items()},
        {name: (entry.meaning, entry.n) for name, entry in bench.data.items()},
        {name: entry.meaning for name, entry in bench.attacks.items()},
        plan,
    )
    with Store(out) as store:
        store.ask(cells)
        again = _given_up(cells, store) if retry else {}
        todo = [cell for cell in cells if _open(cell.id, store, again)]
        with _progress(cells, todo, bench, verbose) as bar:
            for cell in _run(todo, Work(store, bench, again, _clean_cells(cells), bar)):
                bar.update(_weight(cell, bench))
        return Evaluation(cells, bench, store.read(cell.id for cell in cells))


def bench_of(plan: Plan) -> Bench:
    """The catalog's entries for everything the plan names, checked."""
    device = device_of(plan.device)
    return Bench(
        [model_entry(spec, plan.model_dir) for spec in specs(plan.models, "models")],
        [data_entry(spec, plan.data_dir) for spec in specs(plan.data, "data")],
        [
            attack_entry(spec, plan.norm, plan.eps)
            for spec in specs(plan.attacks or (), "attacks")
            if spec.text != CLEAN
        ],
        device=device,
        batch_size=plan.batch_size,
        keep_images=plan.keep_images,
    )


def device_of(name: str) -> torch.device:
    """`auto` is the first GPU, or else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used ({' '.join(str(error).split())[:80]}); give auto") from None
    return device


class Work(NamedTuple):
    """What every cell is run with."""

    store: Store
    bench: Bench
    again: Again
    clean: Mapping[str, Sequence[str]]  # by model the ids of its clean cells, on all slices
    bar: Any


def _run(todo: Sequence[Cell], work: Work) -> Iterator[Cell]:
    """Run the cells, or see them run by others, in an order in which every cell finds what it needs."""
    waiting = list(todo)
    while waiting:
        left = []
        for cell in waiting:
            if _settled(cell, work):
                yield cell
            else:
                left.append(cell)
        if len(left) == len(waiting):  # all at work elsewhere, or waiting for what is
            time.sleep(WAIT)
        waiting = left


def _settled(cell: Cell, work: Work) -> bool:
    """Run the cell unless it is done, or its turn has not come."""
    store = work.store
    store.refresh()
    if any(_open(need, store, work.again) for need in cell.needs):
        return False
    if not _open(cell.id, store, work.again):
        return True
    with store.claim(cell.id) as mine:
        store.refresh()
        if not mine:
            return False
        if _open(cell.id, store, work.again):
            work.bar.set_postfix_str(f"{cell.model} {cell.attack}")
            before = store.read([*cell.needs, *work.clean[cell.model]])
            outcome = run_cell(cell, work.bench, before)
            store.add(outcome.record, outcome.tensors)
    return True


def _clean_cells(cells: Sequence[Cell]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.attack == CLEAN:
            found.setdefault(cell.model, []).append(cell.id)
    return found


def _open(cell: str, store: Store, again: Again) -> bool:
    """Not done, or given up by a record that is still the last one: another process may be retrying too."""
    return cell not in store or store.place(cell) == again.get(cell)


def _given_up(cells: Sequence[Cell], store: Store) -> Again:
    found = store.read(cell.id for cell in cells)
    return {cell: store.place(cell) for cell, record in found.items() if failed(record)}


def _weight(cell: Cell, bench: Bench) -> int:
    """How much work a cell is: images times passes through the model, roughly."""
    steps = 0 if cell.attack == CLEAN else bench.attacks[cell.attack].steps
    return (cell.stop - cell.start) * (1 + 3 * steps)


def _progress(cells: Sequence[Cell], todo: Sequence[Cell], bench: Bench, verbose: bool) -> Any:
    """A bar whose estimate counts the cells that are left by how much work they are."""
    return tqdm(
        total=sum(_weight(cell, bench) for cell in todo),
        disable=not (verbose and todo),
        desc=f"{len(todo)} of {len(cells)} cells",
        bar_format="{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}, {remaining} left{postfix}",
        leave=False,
        mininterval=0.5 if sys.stderr.isatty() else 30,  # a log is not to be filled with it
    )
