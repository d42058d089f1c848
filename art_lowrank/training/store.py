"""Every training image's last perturbation, kept as low-rank factors from one epoch to the next.

Numbers are relative to the radius of the attack, in the frame of the image before augmentation. What an epoch writes is
read by the next one only, so an epoch that was broken off is simply begun again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_lowrank.attack.checks import check_count, is_whole
from art_lowrank.attack.factors import Factors, identity, resolve_rank
from art_lowrank.attack.start import gaussian
from art_lowrank.training import rows as files
from art_lowrank.training.adversaries import is_linf
from art_lowrank.training.compress import EXTRA, ROUNDS, compressed
from art_lowrank.training.moves import Moves
from art_lowrank.training.rows import Rows, erase, files_in, number_of, renamed
from art_lowrank.training.shards import Dealt, Shard, dealt, fill, opened

ANY_UNIT = "eps"
HALF = float(np.finfo(np.float16).max)
Shape = tuple[int, int, int]


class PerturbationStore:
    """Perturbations of n images of `shape` (c, h, w), of the given rank; "full" keeps them dense.

    path    a folder for a file an epoch, mapped into memory, of which the last two are kept; None: in memory
    unit    what the numbers are relative to, "l2 radius" or "linf radius"; "eps" goes with both
    data    a hash or a name of the images; like shape, rank and unit it has to agree with what files say
    shard   (k, m): only images i with i % m == k, as one of m processes; each has a file of its own
    """

    def __init__(
        self,
        n: int,
        shape: Shape,
        rank: int | str,
        path: str | os.PathLike[str] | None = None,
        *,
        unit: str = ANY_UNIT,
        data: str = "",
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Check the numbers, and the files where there are any."""
        self.n, self.shape, self.dense = _whole("n", n), _shape(shape), rank == "full"
        self.shard = _shard(shard, self.n)
        self.held = self.shard.count(self.n)  # images
        c, h, w = self.shape
        self.rank = resolve_rank(rank if self.dense else _whole("rank", rank, " or 'full'"), h, w)
        self.width = c * h * w if self.dense else c * self.rank * (h + w)
        if not self.dense and 2 * self.rank * (h + w) >= h * w:
            lower = "rank='full'" if self.rank == 1 else "a lower rank"
            warnings.warn(
                f"factors of rank {self.rank} take {2 * self.width} bytes an image, no less than a byte a pixel would "
                f"({c * h * w}); give {lower}",
                stacklevel=2,
            )
        self.path = None if path is None else Path(path)
        if not isinstance(data, str):
            raise ValueError(f"data is {data!r}; give a text, such as art_lowrank.training.fingerprint(x)")
        self.unit = unit
        self._header = {
            "images": self.n,
            "shape": list(self.shape),
            "rank": "full" if self.dense else self.rank,
            "unit": unit,
            "data": data,
        }
        self._last: Rows | None = None  # of the epoch before, in memory
        self._read: Dealt | None = None
        self._write: Rows | None = None
        kept = [] if self.path is None else files_in(self.path)
        for file in kept[-1:]:
            files.check(file, self._header)
        self.found = max(map(number_of, kept), default=0)  # epochs that files tell of
        self.epoch = 0  # done

    def __repr__(self) -> str:
        c, h, w = self.shape
        rank = "full" if self.dense else self.rank
        return f"PerturbationStore({self.held} images of {c} x {h} x {w}, rank {rank}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of one epoch's perturbations; while an epoch runs there are those of the one before as well."""
        return files.size_of(self.held, self.width)

    def begin(self, epoch: int, forget: bool = False) -> None:
        """Read what the epoch before has written (nothing, if it is to be forgotten), and write anew.

        Files of other epochs are deleted: begin an epoch when the state of training after the one before is safe.
        """
        check_count("epoch", epoch, 0)
        if self._write is not None and self._write.seen.any():
            done = f"{int(self._write.seen.sum())} of {self.held} images"
            warnings.warn(f"an epoch was broken off after {done}; only whole epochs are kept", stacklevel=3)
        self._read = dealt(self._empty(), self.shard) if forget or epoch == 0 else self._before(epoch)
        if self.path is None:
            self._write = self._empty()
        else:
            erase(self.path, epoch, self.shard.of)
            header = self.shard.header(self._header)
            self._write = files.create(self.path / self.shard.writing, header, self.held, self.width)
        self.epoch, self.found = epoch, 0

    def commit(self) -> None:
        """The end of an epoch. Rows it did not write stay as they were; the next epoch reads all of them."""
        read, write = self._begun()
        fill(write, self.shard, read)
        files.sync(write)
        if self.path is not None:
            renamed(self.path / self.shard.writing, self.path / self.shard.name(self.epoch + 1))
        self._last, self._read, self._write, self.epoch = write, None, None, self.epoch + 1

    @property
    def progress(self) -> float:
        """Epochs done, and the share of images done in the present one."""
        return self.epoch + (0.0 if self._write is None else float(self._write.seen.mean()))

    def seen(self, indices: Tensor) -> Tensor:
        """Which of the images have a perturbation of an epoch before."""
        return torch.from_numpy(self._begun()[0].seen(self._places(indices)))

    def load(self, indices: Tensor, moves: Moves | None = None, size: tuple[int, int] | None = None) -> Factors:
        """Perturbations of the epoch before, moved with their images; zero for images not seen yet. In float32."""
        found = self._factors(self._places(indices))
        return found if moves is None else moves.factors(found, size or self.shape[1:])

    @torch.no_grad()
    def save(self, indices: Tensor, perturbation: Tensor | Factors, moves: Moves | None = None) -> None:
        """Keep the perturbations (n, c, h, w) of moved images, or factors of theirs, for the next epoch."""
        _, write = self._begun()
        places = self._places(indices)
        if not isinstance(perturbation, Tensor | Factors):
            raise ValueError(f"perturbations are {type(perturbation).__name__}; give a torch tensor or Factors")
        self._check(perturbation, len(places), moves is not None)
        back, size = None if moves is None else moves.inverse(), self.shape[1:]
        if isinstance(perturbation, Factors):
            factors = perturbation if back is None else back.factors(perturbation, size)
        else:
            delta = perturbation.float().nan_to_num(0.0, 0.0, 0.0)
            delta = delta if back is None else back.images(delta, size)
            with torch.autocast(delta.device.type, enabled=False):
                factors = identity(delta) if self.dense else self._compressed(delta, places)
        rows = self.shard.rows(places)
        write.values[rows] = self._packed(factors)
        write.seen[rows] = True

    def _compressed(self, delta: Tensor, places: Any) -> Factors:
        """From the factors before; images that have none, or none in some channel, start from random rows."""
        n, c, h, w = delta.shape
        found = Factors(delta.new_empty(n, c, h, self.rank), delta.new_empty(n, c, self.rank, w))
        before = self._factors(places).right.to(delta)
        known = (before.abs().amax((2, 3)) > 0).all(1)
        for rows, guess, rounds in ((known, before[known], 1), (~known, self._guess(delta), ROUNDS)):
            if bool(rows.any()):
                found.left[rows], found.right[rows] = compressed(delta[rows], guess, self.rank, rounds)
        return found

    def _guess(self, delta: Tensor) -> Tensor:
        c, h, w = self.shape
        return gaussian((1, c, min(self.rank + EXTRA, h, w), w), 0, 0, delta)

    def _factors(self, places: Any) -> Factors:
        c, h, w = self.shape
        flat = torch.from_numpy(self._begun()[0].values(places)).float().nan_to_num(0.0, 0.0, 0.0)
        if self.dense:
            return identity(flat.view(-1, c, h, w))
        both = flat.view(-1, c, self.rank, h + w)
        return Factors(both[..., :h].mT, both[..., h:])

    def _packed(self, factors: Factors) -> Any:
        both = factors.dense() if self.dense else torch.cat([factors.left.mT, factors.right], -1)
        return both.detach().flatten(1).clamp(-HALF, HALF).half().cpu().numpy()

    def _check(self, given: Tensor | Factors, n: int, moved: bool) -> None:
        """Refuse perturbations that are not one an index, of these channels, size and rank."""
        shape = tuple(given.shape) if isinstance(given, Tensor) else shape_of(given)
        known = 2 if moved else 4
        if len(shape) != 4 or shape[:known] != (n, *self.shape)[:known]:
            raise ValueError(f"perturbations of shape {shape} do not fit {n} indices and images {self.shape}")
        if isinstance(given, Factors) and not self.dense and (rank := given.left.shape[-1]) != self.rank:
            raise ValueError(f"perturbations of rank {rank} do not fit a store of rank {self.rank}")

    def _empty(self) -> Rows:
        return files.empty(self.held, self.width)

    def _before(self, epoch: int) -> Dealt:
        """What the epoch before has written; if that is lost, attacks start from noise again, and it is said."""
        if self.path is None and self._last is not None and self.epoch == epoch:
            return dealt(self._last, self.shard)
        file = None if self.path is None else self.path / self.shard.name(epoch)
        if self.path is not None and (found := opened(self.path, epoch, self.shard, self._header, self.n, self.width)):
            return found
        others = [] if self.path is None else sorted({number_of(other) for other in files_in(self.path)})
        if others:
            raise ValueError(
                f"{file} is missing, the folder holds epochs {others}; give one of these numbers, or delete the files: "
                "then attacks start from noise"
            )
        lost = f"memory holds nothing of epoch {epoch}" if file is None else f"{file} is missing"
        warnings.warn(f"{lost}; attacks of epoch {epoch + 1} start from noise", stacklevel=4)
        return dealt(self._empty(), self.shard)

    def _places(self, indices: Tensor) -> Any:
        """Indices as numpy's, each within range."""
        try:
            given = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"indices are {indices!r}; give whole numbers, one an image") from error
        if given.ndim != 1 or given.is_floating_point() or given.dtype == torch.bool:
            shape = tuple(given.shape)
            raise ValueError(f"indices are {given.dtype} of shape {shape}; give whole numbers, one an image")
        if len(given) and not 0 <= int(given.min()) <= int(given.max()) < self.n:
            raise ValueError(
                f"indices run from {int(given.min())} to {int(given.max())}; the store has {self.n} images: give it as "
                "many as there are, or number a subset anew, Indexed(Subset(dataset, rows))"
            )
        found = given.cpu().numpy().astype(np.int64)
        self.shard.rows(found)
        return found

    def _begun(self) -> tuple[Dealt, Rows]:
        if self._read is None or self._write is None:
            raise ValueError("no epoch is under way; call begin(epoch) before it and commit() after it")
        return self._read, self._write


def usual_rank(norm: float | str, height: int, width: int) -> int | str:
    """3 for l2 and 5 for l_inf, less for small images, whose factors would take more than a byte a pixel."""
    rank = min(5 if is_linf(norm) else 3, (height * width - 1) // (2 * (height + width)))
    return rank or "full"


def shape_of(factors: Factors) -> tuple[int, ...]:
    """(n, c, h, w) of the perturbations they are."""
    return (*factors.left.shape[:3], factors.right.shape[-1])


def _shard(given: Any, n: int) -> Shard:
    try:
        number, of = given
        fits = is_whole(number) and is_whole(of) and 0 <= number < of <= n
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"shard is {given!r}; give (number of a process, count of processes), the count up to n={n}")
    return Shard(int(number), int(of))


def _whole(name: str, value: Any, more: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least 1{more}")
    return int(value)


def _shape(shape: Any) -> Shape:
    numbers = list(shape) if isinstance(shape, Iterable) else []
    if len(numbers) != 3 or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in numbers):
        raise ValueError(f"shape is {shape!r}; give (channels, height, width)")
    c, h, w = map(int, numbers)
    return c, h, w
