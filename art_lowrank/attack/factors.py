"""A low-rank perturbation as two thin factors, and the files it is kept in."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box, length, nearest, per_image, placed


class Factors(NamedTuple):
    """One low-rank matrix an image and channel: `left @ right`.

    left (n, c, h, r), right (n, c, r, w). The rank is per channel, the norm over all channels.
    """

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Columns of `left`: the largest rank a channel of the perturbation can have."""
        return self.left.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes the two factors take; a dense perturbation takes n * c * h * w * itemsize."""
        return self.left.nbytes + self.right.nbytes

    def __repr__(self) -> str:
        n, c, h, r = self.left.shape
        return f"Factors({n} images of {c} x {h} x {self.right.shape[-1]}, rank {r})"

    def dense(self) -> Tensor:
        """The perturbation itself, (n, c, h, w)."""
        return self.left @ self.right

    def norm(self) -> Tensor:
        """Frobenius norm of every image's perturbation, (n,)."""
        return length(self.dense())

    def rows(self, index: Tensor) -> Factors:
        """The factors of some of the images."""
        return Factors(self.left[index], self.right[index])

    def scaled(self, scale: Tensor) -> Factors:
        """Every image's perturbation times its own number."""
        return Factors(self.left, self.right * per_image(scale))

    def apply(self, x: Tensor, clip: Box = UNIT_BOX) -> Tensor:
        """x plus the perturbation, inside `clip`, in x's dtype, never farther from x than `norm`."""
        n, c, h, _ = self.left.shape
        if tuple(x.shape) != (n, c, h, self.right.shape[-1]):
            raise ValueError(f"factors of shape {(n, c, h, self.right.shape[-1])} do not fit images {tuple(x.shape)}")
        here = Factors(self.left.to(x.device), self.right.to(x.device))
        return nearest(x, here.dense(), here.norm(), placed(clip, here.left))[0]

    def save(self, path: str | PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file, aside and renamed, in float32 or in half the space as float16.

        The norms are stored beside the factors, so that rounding to float16 never makes a perturbation longer.
        """
        if dtype not in (torch.float16, torch.float32):
            raise ValueError(f"factors are saved as torch.float16 or torch.float32, not {dtype}")
        tensors = {"left": self.left.to(dtype), "right": self.right.to(dtype), "norm": self.norm().float()}
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        aside = Path(f"{path}.{os.getpid()}.tmp")
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Factors:
        """Read what `save` wrote; always float32, each perturbation no longer than it was."""
        try:
            tensors = load_file(Path(path))
            left, right, norm = (tensors[name].float() for name in ("left", "right", "norm"))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a file of factors: {error}; write one with Factors.save") from error
        factors = cls(left, right)
        return factors.scaled((norm / factors.norm().clamp_min(1e-30)).clamp_max(1.0))


def truncated(delta: Tensor, rank: int) -> Factors:
    """The best rank-`rank` approximation of every channel (Eckart-Young), its singular values split evenly."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[..., :rank].sqrt()
    return Factors(left[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * right[..., :rank, :])


def fitted(given: Factors, x: Tensor, rank: int) -> Factors:
    """The caller's factors for the images x: of their shape, device and dtype, truncated to `rank` where longer."""
    n, c, h, w = x.shape
    shapes = tuple(given.left.shape), tuple(given.right.shape)
    if shapes != ((n, c, h, given.rank), (n, c, given.rank, w)):
        raise ValueError(f"init holds factors {shapes[0]} and {shapes[1]}, which do not fit images {tuple(x.shape)}")
    given = Factors(given.left.to(x), given.right.to(x))
    return given if given.rank <= rank else truncated(given.dense(), rank)


def identity(delta: Tensor) -> Factors:
    """A dense perturbation as factors: delta times the unit matrix (which takes no memory of its own)."""
    n, c, _, w = delta.shape
    return Factors(delta, torch.eye(w, dtype=delta.dtype, device=delta.device).expand(n, c, w, w))


def resolve_rank(rank: int | float | str, height: int, width: int) -> int:
    """Rank as a whole number: an int as it is, a share in (0, 1) of min(height, width), or "full" as all of it."""
    full = min(height, width)
    if rank == "full":
        return full
    if isinstance(rank, float):
        return max(1, round(rank * full))
    if int(rank) > full:
        raise ValueError(
            f'rank {rank} exceeds min(height, width) = {full} of the images; use rank="full" or at most {full}'
        )
    return int(rank)
