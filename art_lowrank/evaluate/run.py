"""The evaluation itself: plan minus done, cell by cell, any number of processes in one folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from art_lowrank.evaluate.bench import Bench
from art_lowrank.evaluate.catalog.attacks import attack_entry
from art_lowrank.evaluate.catalog.data import data_entry
from art_lowrank.evaluate.catalog.models import model_entry
from art_lowrank.evaluate.catalog.precision import lowered
from art_lowrank.evaluate.outcome import failed
from art_lowrank.evaluate.plan import CLEAN, Cell, Plan, cells_of, specs
from art_lowrank.evaluate.store import Store
from art_lowrank.evaluate.work import Again, Engine, Work, one_by_one, weight
from art_lowrank.record import Record


class Evaluation(NamedTuple):
    """What was asked and what came out: records by the ids of their cells."""

    cells: Sequence[Cell]
    bench: Bench
    records: Mapping[str, Record]

    @property
    def failures(self) -> list[Record]:
        """Cells that were given up."""
        return [record for record in self.records.values() if failed(record)]


def evaluate(
    plan: Plan, out: str | Path, *, retry: bool = False, verbose: bool = True, engine: Engine = one_by_one
) -> Evaluation:
    """Run what the folder does not have yet; `retry` runs cells again that failed before.

    engine      where cells are run: in this process, or `art_lowrank.evaluate.ray.OnRay(plan)`
    """
    elsewhere = engine is not one_by_one  # the plan's device is then none of this machine's
    bench = bench_of(replace(plan, device="cpu") if elsewhere else plan)
    cells = cells_in(bench, plan)
    with Store(out) as store:
        store.ask(cells)
        work = Work(store, bench, _given_up(cells, store) if retry else {}, _clean_cells(cells))
        todo = [cell for cell in cells if work.open(cell.id)]
        with _progress(cells, todo, bench, verbose) as bar:
            for cell in engine(todo, work, lambda text: bar.set_postfix_str(text, refresh=sys.stderr.isatty())):
                bar.update(weight(cell, bench))
        store.tidy()
        return Evaluation(cells, bench, store.read(cell.id for cell in cells))


def cells_in(bench: Bench, plan: Plan) -> list[Cell]:
    """The cells of a plan, by what the bench says its names mean."""
    return cells_of(
        {name: entry.meaning for name, entry in bench.models.items()},
        {name: (entry.meaning, entry.n) for name, entry in bench.data.items()},
        {name: entry.meaning for name, entry in bench.attacks.items()},
        plan,
    )


def bench_of(plan: Plan) -> Bench:
    """The catalog's entries for everything the plan names, checked."""
    device = device_of(plan.device)
    return Bench(
        [model_entry(spec, plan.model_dir) for spec in specs(plan.models, "models")],
        [data_entry(spec, plan.data_dir) for spec in specs(plan.data, "data")],
        [
            attack_entry(lowered(spec, plan.precision), plan.norm, plan.eps)
            for spec in specs(plan.attacks or (), "attacks")
            if spec.text != CLEAN
        ],
        device=device,
        batch_size=plan.batch_size,
        keep_images=plan.keep_images,
        channels_last=plan.channels_last,
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


def _given_up(cells: Sequence[Cell], store: Store) -> Again:
    found = store.read(cell.id for cell in cells)
    return {cell: store.place(cell) for cell, record in found.items() if failed(record)}


def _clean_cells(cells: Sequence[Cell]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.attack == CLEAN:
            found.setdefault(cell.model, []).append(cell.id)
    return found


def _progress(cells: Sequence[Cell], todo: Sequence[Cell], bench: Bench, verbose: bool) -> Any:
    """A bar whose estimate counts the cells that are left by how much work they are."""
    return tqdm(
        total=sum(weight(cell, bench) for cell in todo),
        disable=not (verbose and todo),
        desc=f"{len(todo)} of {len(cells)} cells",
        bar_format="{desc}: {percentage:3.0f}% |{bar:20}| {elapsed}, {remaining} left{postfix}",
        leave=False,
        mininterval=0.5 if sys.stderr.isatty() else 30,  # a log is not to be filled with it
    )
