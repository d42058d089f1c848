"""Which cell a free worker gets. Values in, a cell out: nothing here knows what a worker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from art_lowrank.evaluate.plan import Cell


def urgencies(cells: Sequence[Cell], weight: Callable[[Cell], float]) -> dict[str, float]:
    """By id how much work lies on the longest way from a cell to the end, itself included; needs come before."""
    found: dict[str, float] = {}
    behind: dict[str, float] = {}  # the longest way from the cells that wait for it
    for cell in reversed(cells):
        found[cell.id] = weight(cell) + behind.get(cell.id, 0.0)
        for need in cell.needs:
            behind[need] = max(behind.get(need, 0.0), found[cell.id])
    return found


def pick(
    ready: Sequence[Cell], held: str | None, crowd: Mapping[str, int], urgency: Mapping[str, float]
) -> Cell | None:
    """The most urgent cell of the model that the worker holds; without any, of the model with most to do a worker.

    `crowd` counts the workers that hold a model: a model is loaded by a second one only where that is worth most.
    """
    own = [cell for cell in ready if cell.model == held]
    if not own:
        share: dict[str, float] = {}
        for cell in ready:
            share[cell.model] = share.get(cell.model, 0.0) + urgency[cell.id] / (1 + crowd.get(cell.model, 0))
        chosen = max(share, key=lambda model: share[model], default=None)
        own = [cell for cell in ready if cell.model == chosen]
    return max(own, key=lambda cell: urgency[cell.id], default=None)
