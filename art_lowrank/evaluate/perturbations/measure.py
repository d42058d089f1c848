"""What the attacks of an evaluation's folder did to singular values, and noise of the same length beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from art_lowrank.evaluate.entries import Entry, entries_of
from art_lowrank.evaluate.report.pictures import Slice, clean_slice
from art_lowrank.evaluate.report.read import last_records, rows_in
from art_lowrank.evaluate.rows import Row
from art_lowrank.spectra import Perturbed, noise_like, perturbed

NOISE = "noise of the same length"
PIXELS = 2_000_000  # read at a time


@dataclass(frozen=True)
class Measured:
    """An attack on a model, or the control, and what its perturbations are; images it left as they were are out."""

    model: str
    data: str
    threat: str
    attack: str
    seed: int | None
    unmoved: int
    of: Perturbed

    @property
    def n(self) -> int:
        """Images whose perturbations are measured."""
        return len(self.of.stable)


def measured(folder: Path, models: Sequence[str] = ()) -> list[Measured]:
    """Every attack of every model in the folder; curves, which stop at the rank that breaks an image, are left out."""
    rows = [row for row in rows_in(folder, last_records(folder)) if not models or row.model in models]
    found = [one for entry in entries_of(rows) for one in of_entry(folder, entry)]
    if not found:
        raise ValueError(f"{folder} holds no perturbed images of an attack; evaluate one there, and keep its images")
    return found


def of_entry(folder: Path, entry: Entry) -> Iterator[Measured]:
    """The attacks with one threat; the control has the lengths of the first one's perturbations."""
    first = True
    for row in entry.rows:
        if row.error or row.curve or not row.done:
            continue
        pairs = list(moved_of(folder, entry, row))
        if not sum(len(x) for x, _ in pairs):
            continue
        yield _measured(entry, row.attack, row.seed, pairs)
        if first:
            control = [(x, noise_like(x, moved, place)) for place, (x, moved) in enumerate(pairs)]
            yield _measured(entry, NOISE, None, control)
        first = False


def moved_of(folder: Path, entry: Entry, row: Row) -> Iterator[tuple[Tensor, Tensor]]:
    """Clean and attacked images, some at a time."""
    for record, span in zip(row.done, row.slices, strict=True):
        kept, clean = Slice(folder, record), clean_slice(folder, entry, span)
        rows, size = kept.rows.tolist(), max(1, PIXELS // kept.pixels)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield torch.from_numpy(clean.images(some)), torch.from_numpy(kept.images(some))


def _measured(entry: Entry, attack: str, seed: int | None, pairs: Sequence[tuple[Tensor, Tensor]]) -> Measured:
    parts, unmoved = [], 0
    for x, moved in pairs:
        finite = torch.isfinite(moved).flatten(1).all(1)
        changed = finite & (moved != x).flatten(1).any(1)
        unmoved += int((~changed).sum())
        parts.append(perturbed(x[changed], moved[changed]))
    joined = Perturbed(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return Measured(entry.model, entry.data, entry.threat, attack, seed, unmoved, joined)
