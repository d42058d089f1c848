"""What the attacks of an evaluation's folder did to singular values, and noise of the same length beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from art_lowrank.evaluate.entries import Entry, entries_of
from art_lowrank.evaluate.outcome import NotRun, failed
from art_lowrank.evaluate.report.pictures import UNREADABLE, Slice, readable
from art_lowrank.evaluate.report.read import last_records, missing, rows_in
from art_lowrank.evaluate.rows import Row
from art_lowrank.record import Record
from art_lowrank.spectra import Perturbed, noise_like, perturbed

NOISE = "noise as long as the first attack's"
PIXELS = 2_000_000  # read at a time


@dataclass(frozen=True)
class Measured:
    """An attack on a model, or the control; images that were left as they are, or have no numbers, are counted only."""

    model: str
    data: str
    threat: str
    attack: str
    of: Perturbed
    unmoved: int = 0
    unreadable: int = 0

    @property
    def n(self) -> int:
        """Images whose perturbations are measured."""
        return len(self.of.stable)


@dataclass(frozen=True)
class Spectra:
    """Everything that is known of a folder."""

    found: list[Measured] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what could not be measured, and why
    failures: list[str] = field(default_factory=list)  # of the evaluation


class Moved(NamedTuple):
    """Clean and attacked images, and their places in the data."""

    x: Tensor
    moved: Tensor
    places: list[int]


def spectra_of(folder: Path) -> Spectra:
    """Every attack of every model; curves, which stop at the rank that breaks an image, are left out."""
    records = last_records(folder)
    result = Spectra(failures=list(dict.fromkeys(map(_failure, filter(_own_fault, records.values())))))
    if left := missing(folder, records):
        result.remarks.append(f"NOT FINISHED: {len(left)} cells that were asked for are not there yet")
    for entry in entries_of(rows_in(folder, records)):
        of_entry(folder, entry, result)
    return result


def _own_fault(record: Record) -> bool:
    """Given up, and not only because the model had failed before."""
    return failed(record) and record.values["type"] != NotRun.__name__


def _failure(record: Record) -> str:
    return f"{record.model}, {record.attack}: {record.values['error']}"


def of_entry(folder: Path, entry: Entry, result: Spectra) -> None:
    """The attacks with one threat; the first that moves an image gives the control its lengths."""
    seeds = Counter(row.attack for row in entry.rows)
    controlled = False
    for row in entry.rows:
        if row.curve or not row.done:
            continue
        name = f"{row.attack}, seed {row.seed}" if seeds[row.attack] > 1 else row.attack
        try:
            attack, *control = of_row(folder, entry, row, name, control=not controlled)
        except (*UNREADABLE, RuntimeError) as error:
            result.remarks.append(f"not measured: {entry.model}, {name}: {readable(error)}")
            continue
        result.found.append(attack)
        if attack.n:
            result.found.extend(control)
            controlled = True


def of_row(folder: Path, entry: Entry, row: Row, name: str, control: bool) -> list[Measured]:
    """An attack, and on demand noise as long; a few images are in memory at a time."""
    parts, noises, unmoved, unreadable = [], [], 0, 0
    for x, moved, places in moved_of(folder, entry, row):
        finite = torch.isfinite(moved).flatten(1).all(1)
        changed = finite & (moved != x).flatten(1).any(1)
        unmoved, unreadable = unmoved + int((finite & ~changed).sum()), unreadable + int((~finite).sum())
        chosen = [place for place, kept in zip(places, changed.tolist(), strict=True) if kept]
        if chosen:
            x, moved = x[changed], moved[changed]
            parts.append(perturbed(x, moved))
            if control:
                noises.append(perturbed(x, noise_like(x, moved, chosen)))
    found = [Measured(entry.model, entry.data, entry.threat, name, joined(parts), unmoved, unreadable)]
    return [*found, Measured(entry.model, entry.data, entry.threat, NOISE, joined(noises))] if control else found


def joined(parts: Sequence[Perturbed]) -> Perturbed:
    """The measures of all images; of none where there is no part."""
    if not parts:
        return Perturbed(*(torch.zeros(0, 1, dtype=torch.float64),) * 3, *(torch.zeros(0, dtype=torch.float64),) * 3)
    return Perturbed(*(torch.cat(column) for column in zip(*parts, strict=True)))


def moved_of(folder: Path, entry: Entry, row: Row) -> Iterator[Moved]:
    """Images, some at a time; clean ones in float32, as the attack saw them, however they are kept."""
    clean = [Slice(folder, record) for record in entry.clean.done]
    for record in row.done:
        kept = Slice(folder, record)
        places, size = kept.rows.tolist(), max(1, PIXELS // kept.pixels)
        for start in range(0, len(places), size):
            some = places[start : start + size]
            x, moved = clean_images(clean, some).float().double(), torch.from_numpy(kept.images(some))
            if x.shape != moved.shape:
                raise ValueError(f"{kept.path} holds images {tuple(moved.shape)} where {tuple(x.shape)} are due")
            yield Moved(x, moved, some)


def clean_images(slices: Sequence[Slice], places: Sequence[int]) -> Tensor:
    """By their places in the data, from whichever slice has them."""
    found: dict[int, Tensor] = {}
    for kept in slices:
        mine = [place for place in places if place in kept.places and place not in found]
        if mine:
            found.update(zip(mine, torch.from_numpy(kept.images(mine)), strict=True))
    if len(found) < len(set(places)):
        raise ValueError("some of its clean images were not kept; evaluate into a new folder")
    return torch.stack([found[place] for place in places])
