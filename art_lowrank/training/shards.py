"""Perturbations dealt out to several processes: which of them keeps an image, and in which file it was kept."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from art_lowrank.training.rows import MANY, NAME, WRITING, Flags, Halves, Header, Rows, files_in, number_of, open_rows

Images = npt.NDArray[np.int64]
LABEL = re.compile(r"epoch-\d+(?:\.(\d+)-of-(\d+))?\.perturbations")


class Shard(NamedTuple):
    """The images i with i % of == number, image i in row i // of."""

    number: int = 0
    of: int = 1

    @property
    def label(self) -> str:
        """What tells its files from those of others."""
        return "" if self.of == 1 else f".{self.number}-of-{self.of}"

    @property
    def writing(self) -> str:
        """The file of an epoch that is under way."""
        return WRITING.format(self.label)

    def name(self, epoch: int) -> str:
        """The file of an epoch that is done."""
        return NAME.format(epoch, self.label)

    def header(self, common: Header) -> dict[str, Any]:
        """What its files say of themselves."""
        return dict(common) if self.of == 1 else {**common, "shard": [self.number, self.of]}

    def count(self, n: int) -> int:
        """How many of n images it has."""
        return len(range(self.number, n, self.of))

    def rows(self, images: Images) -> Images:
        """Where images are that it has; another one is refused."""
        if self.of > 1 and len(strange := images[images % self.of != self.number]):
            raise ValueError(
                f"image {strange[0]} belongs to process {strange[0] % self.of} of {self.of}, not to {self.number}; "
                "give each process the images whose index, divided by their count, leaves its number"
            )
        return images // self.of


class Dealt(NamedTuple):
    """What was written by as many processes as there are parts, read by image; None for parts nobody here asks for."""

    parts: tuple[Rows | None, ...]

    def values(self, images: Images) -> Halves:
        """The rows of images."""
        return np.asarray(self._taken("values", images))

    def seen(self, images: Images) -> Flags:
        """Which of them were ever written."""
        return np.asarray(self._taken("seen", images))

    def _taken(self, name: str, images: Images) -> Any:
        of = len(self.parts)
        if of == 1:
            return getattr(self.parts[0], name)[images]
        some = getattr(next(part for part in self.parts if part is not None), name)
        found = np.zeros((len(images), *some.shape[1:]), some.dtype)
        for number, part in enumerate(self.parts):
            here = images % of == number
            if here.any():
                found[here] = getattr(part, name)[images[here] // of]
        return found


def dealt(rows: Rows, shard: Shard) -> Dealt:
    """A process's own rows, read by image."""
    return Dealt(tuple(rows if number == shard.number else None for number in range(shard.of)))


def fill(rows: Rows, shard: Shard, before: Dealt) -> None:
    """Where a row was not written, what was there before."""
    missed = np.flatnonzero(~rows.seen)
    for some in np.array_split(missed, range(MANY, len(missed), MANY)):
        images = some * shard.of + shard.number
        known = before.seen(images)
        rows.values[some[known]], rows.seen[some[known]] = before.values(images[known]), True


def opened(folder: Path, epoch: int, shard: Shard, header: Header, n: int, width: int) -> Dealt | None:
    """What was written of a shard's images up to an epoch, by any number of processes; None where nothing was."""
    files = {label: file for file in files_in(folder) if number_of(file) == epoch and (label := _shard_of(file))}
    if not files:
        return None
    counts = {other.of for other in files}
    of = shard.of if shard.of in counts else min(counts)
    parts: list[Rows | None] = []
    for other in (Shard(number, of) for number in range(of)):
        if (other.number - shard.number) % math.gcd(of, shard.of):
            parts.append(None)  # no image is in both
        elif other in files:
            parts.append(open_rows(files[other], other.header(header), other.count(n), width))
        else:
            raise ValueError(
                f"{folder / other.name(epoch)} is missing, one of {of} that as many processes kept; bring it here, or "
                "delete the others: then attacks start from noise"
            )
    return Dealt(tuple(parts))


def _shard_of(file: Path) -> Shard | None:
    found = LABEL.fullmatch(file.name)
    return None if found is None else Shard() if found[2] is None else Shard(int(found[1]), int(found[2]))
