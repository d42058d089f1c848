"""Every training image's last perturbation, kept as low-rank factors from one epoch to the next.

Numbers are relative to the radius of the attack, in the frame of the image before augmentation. What an epoch writes is
read by the next one only, so an epoch that was broken off is simply begun again.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_lowrank.attack.factors import Factors, identity, resolve_rank
from art_lowrank.attack.start import gaussian
from art_lowrank.files import sync_folder
from art_lowrank.training import rows as files
from art_lowrank.training.compress import EXTRA, ROUNDS, compressed
from art_lowrank.training.moves import Moves
from art_lowrank.training.rows import Rows

RANKS = {"l2": 3, "linf": 5}  # that were measured to be enough
NAME, WRITING = "epoch-{:06d}.perturbations", "writing.perturbations"
Shape = tuple[int, int, int]


class PerturbationStore:
    """Perturbations of n images of `shape` (c, h, w), of the given rank; "full" keeps them dense.

    path    a folder for a file an epoch, mapped into memory; None keeps them in memory
    unit    what the numbers are relative to; like shape, rank and `data` it has to agree with what files say
    data    a hash or a name of the images
    """

    def __init__(
        self,
        n: int,
        shape: Shape,
        rank: int | str,
        path: str | os.PathLike[str] | None = None,
        *,
        unit: str = "eps",
        data: str = "",
    ) -> None:
        """Check the numbers, and the files where there are any."""
        self.n, self.shape, self.dense = _whole("n", n), _shape(shape), rank == "full"
        c, h, w = self.shape
        self.rank = resolve_rank(rank if self.dense else _whole("rank", rank), h, w)
        self.width = c * h * w if self.dense else c * self.rank * (h + w)
        if not self.dense and 2 * self.rank * (h + w) >= h * w:
            warnings.warn(
                f"factors of rank {self.rank} take {2 * self.width} bytes an image, a byte for each of its numbers "
                f"{c * h * w}; give a lower rank",
                stacklevel=2,
            )
        self.path = None if path is None else Path(path)
        self._header = {"images": n, "shape": list(self.shape), "rank": rank, "unit": unit, "data": data}
        self._read: Rows | None = None
        self._write: Rows | None = None
        kept = [] if self.path is None else files_in(self.path)
        for file in kept:
            files.check(file, self._header)
        self.epoch = max(map(_number, kept), default=0)  # epochs done

    def __repr__(self) -> str:
        c, h, w = self.shape
        rank = "full" if self.dense else self.rank
        return f"PerturbationStore({self.n} images of {c} x {h} x {w}, rank {rank}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of one epoch's perturbations; while an epoch runs there are those of the one before as well."""
        return files.size_of(self.n, self.width)

    def begin(self, epoch: int, forget: bool = False) -> None:
        """Read what the epoch before has written (nothing, if it is to be forgotten), and write anew.

        Files of other epochs are deleted: begin an epoch when the state of training after the one before is safe.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch is {epoch!r}; give the number of epochs done before, at least 0")
        self._read = files.empty(self.n, self.width) if forget or epoch == 0 else self._before(epoch)
        if self.path is None:
            self._write = files.empty(self.n, self.width)
        else:
            erase(self.path, but=epoch)
            self._write = files.create(self.path / WRITING, self._header, self.n, self.width)
        self.epoch = epoch

    def commit(self) -> None:
        """The end of an epoch. Rows it did not write stay as they were; the next epoch reads all of them."""
        read, write = self._begun()
        files.fill(write, read)
        files.sync(write)
        if self.path is not None:
            (self.path / WRITING).replace(self.path / NAME.format(self.epoch + 1))
            sync_folder(self.path)
        self._read, self._write, self.epoch = write, None, self.epoch + 1

    @property
    def progress(self) -> float:
        """Epochs done, and the share of images done in the present one."""
        _, write = self._begun()
        return self.epoch + float(write.seen.mean())

    def seen(self, indices: Tensor) -> Tensor:
        """Which of the images have a perturbation of an epoch before."""
        return torch.from_numpy(self._begun()[0].seen[self._places(indices)])

    def load(self, indices: Tensor, moves: Moves | None = None, size: tuple[int, int] | None = None) -> Factors:
        """Perturbations of the epoch before, moved with their images; zero for images not seen yet. In float32."""
        found = self._factors(self._places(indices))
        return found if moves is None else moves.factors(found, size or self.shape[1:])

    def save(self, indices: Tensor, perturbation: Tensor | Factors, moves: Moves | None = None) -> None:
        """Keep the perturbations (n, c, h, w) of moved images, or factors of theirs, for the next epoch."""
        _, write = self._begun()
        places = self._places(indices)
        back, size = None if moves is None else moves.inverse(), self.shape[1:]
        if isinstance(perturbation, Factors):
            factors = perturbation if back is None else back.factors(perturbation, size)
        else:
            delta = perturbation if back is None else back.images(perturbation, size)
            factors = identity(delta) if self.dense else self._compressed(delta, places)
        write.values[places] = self._packed(factors)
        write.seen[places] = True

    def _compressed(self, delta: Tensor, places: Any) -> Factors:
        """From the factors before; images that have none start from random rows."""
        n, c, h, w = delta.shape
        found = Factors(delta.new_empty(n, c, h, self.rank), delta.new_empty(n, c, self.rank, w))
        known = self._begun()[0].seen[places]
        for some, rounds in ((known, 1), (~known, ROUNDS)):
            if some.any():
                rows = torch.from_numpy(some).to(delta.device)
                guess = self._factors(places[some]).right.to(delta) if rounds == 1 else self._guess(delta)
                found.left[rows], found.right[rows] = compressed(delta[rows], guess, self.rank, rounds)
        return found

    def _guess(self, delta: Tensor) -> Tensor:
        c, h, w = self.shape
        return gaussian((1, c, min(self.rank + EXTRA, h, w), w), 0, 0, delta)

    def _factors(self, places: Any) -> Factors:
        c, h, w = self.shape
        flat = torch.from_numpy(self._begun()[0].values[places]).float()
        if self.dense:
            return identity(flat.view(-1, c, h, w))
        both = flat.view(-1, c, self.rank, h + w)
        return Factors(both[..., :h].mT, both[..., h:])

    def _packed(self, factors: Factors) -> Any:
        both = factors.dense() if self.dense else torch.cat([factors.left.mT, factors.right], -1)
        return both.detach().flatten(1).half().cpu().numpy()

    def _before(self, epoch: int) -> Rows:
        if self.path is None:
            if self._read is None or self.epoch != epoch:
                raise ValueError(
                    f"epoch {epoch} starts from perturbations that are not in memory, {self.epoch} epochs are done; "
                    "give the store a path, so that they outlive a process"
                )
            return self._read
        file = self.path / NAME.format(epoch)
        if not file.exists():
            raise ValueError(f"{file} is missing, from which epoch {epoch} starts; begin anew from epoch 0")
        return files.open_rows(file, self._header, self.n, self.width)

    def _places(self, indices: Tensor) -> Any:
        """Indices as numpy's, each within range."""
        given = torch.as_tensor(indices)
        if given.ndim != 1 or given.is_floating_point() or given.dtype == torch.bool:
            raise ValueError(
                f"indices are {given.dtype} of shape {tuple(given.shape)}; give whole numbers, one an image"
            )
        if len(given) and not 0 <= int(given.min()) <= int(given.max()) < self.n:
            raise ValueError(
                f"indices run from {int(given.min())} to {int(given.max())}; the store has {self.n} images"
            )
        return given.cpu().numpy().astype(np.int64)

    def _begun(self) -> tuple[Rows, Rows]:
        if self._read is None or self._write is None:
            raise ValueError("no epoch is under way; call begin(epoch) before it and commit() after it")
        return self._read, self._write


def usual_rank(norm: str, height: int, width: int) -> int | str:
    """3 for l2 and 5 for l_inf, less for small images, whose factors would take more than a byte a pixel."""
    rank = min(RANKS[norm], (height * width - 1) // (2 * (height + width)))
    return rank or "full"


def files_in(folder: Path) -> list[Path]:
    """The perturbations that are kept in a folder."""
    return sorted(folder.glob(NAME.replace("{:06d}", "*")))


def _number(file: Path) -> int:
    digits = file.name.removeprefix("epoch-").partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def erase(folder: str | os.PathLike[str], but: int | None = None) -> None:
    """Delete the perturbations kept in a folder, but those of one epoch; the folder is made if need be."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder} cannot be a folder for perturbations ({error}); give another") from error
    for file in (*files_in(folder), folder / WRITING):
        if but is None or file.name != NAME.format(but):
            file.unlink(missing_ok=True)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least 1")
    return value


def _shape(shape: Any) -> Shape:
    if len(shape) != 3 or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in shape):
        raise ValueError(f"shape is {tuple(shape)}; give (channels, height, width)")
    c, h, w = shape
    return c, h, w
