"""What there is to do, and the loop that does it: this process's own, or one that hands cells to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from art_lowrank.evaluate.bench import Bench
from art_lowrank.evaluate.cell import run_cell
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.store import Store
from art_lowrank.record import Record

Again: TypeAlias = Mapping[str, int]  # cells to be run again, with the place of the record that gave them up
Say: TypeAlias = Callable[[str], object]  # what is at work, beside the progress bar
WAIT = 0.2  # seconds between looks at what another process is doing


class Work(NamedTuple):
    """What every cell is run with."""

    store: Store
    bench: Bench
    again: Again
    clean: Mapping[str, Sequence[str]]  # by model the ids of its clean cells, on all slices

    def open(self, cell: str) -> bool:
        """Not done, or given up by a record that is still the last one: another process may be retrying too."""
        return cell not in self.store or self.store.place(cell) == self.again.get(cell)

    def ready(self, cell: Cell) -> bool:
        """Whether everything it starts from is done."""
        return not any(self.open(need) for need in cell.needs)

    def before(self, cell: Cell) -> dict[str, Record]:
        """The records it starts from and is compared with."""
        return self.store.read([*cell.needs, *self.clean[cell.model]])


class Engine(Protocol):
    """Runs the cells, or sees them run by others, and yields each when it is done."""

    def __call__(self, todo: Sequence[Cell], work: Work, say: Say) -> Iterator[Cell]: ...


def one_by_one(todo: Sequence[Cell], work: Work, say: Say) -> Iterator[Cell]:
    """In this process, in an order in which every cell finds what it needs."""
    waiting = list(todo)
    while waiting:
        left = []
        for cell in waiting:
            if _settled(cell, work, say):
                yield cell
            else:
                left.append(cell)
        if len(left) == len(waiting):  # all at work elsewhere, or waiting for what is
            time.sleep(WAIT)
        waiting = left


def _settled(cell: Cell, work: Work, say: Say) -> bool:
    """Run the cell unless it is done, or its turn has not come."""
    store = work.store
    store.refresh()
    if not work.ready(cell):
        return False
    if not work.open(cell.id):
        return True
    with store.claim(cell.id) as mine:
        store.refresh()
        if not mine:
            return False
        if work.open(cell.id):
            say(f"{cell.model} {cell.attack}")
            outcome = run_cell(cell, work.bench, work.before(cell))
            store.add(outcome.record, outcome.tensors)
    return True


def weight(cell: Cell, bench: Bench) -> int:
    """How much work a cell is: images times passes through the model, roughly."""
    steps = 0 if cell.attack == CLEAN else bench.attacks[cell.attack].steps
    return (cell.stop - cell.start) * (1 + 3 * steps)
