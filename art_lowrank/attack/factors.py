"""A low-rank perturbation as two thin factors, and the files it is kept in."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box, length, nearest, per_image, placed
from art_lowrank.files import write_whole


class Factors(NamedTuple):
    """One low-rank matrix an image and channel: `left @ right`.

    left (n, c, h, r), right (n, c, r, w). The rank is per channel, the norm over all channels.
    """

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """The largest rank a channel of the perturbation can have."""
        *_, height, columns = self.left.shape
        return min(height, columns, self.right.shape[-1])

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

    def apply(self, x: Tensor, clip: Box = UNIT_BOX, mask: Tensor | None = None) -> Tensor:
        """x plus the perturbation (where `mask` is not zero), inside `clip`, in x's dtype, never longer than it is."""
        n, c, h, _ = self.left.shape
        if tuple(x.shape) != (n, c, h, self.right.shape[-1]):
            raise ValueError(f"factors of shape {(n, c, h, self.right.shape[-1])} do not fit images {tuple(x.shape)}")
        wide = torch.promote_types(x.dtype, self.left.dtype)
        delta = Factors(self.left.to(x.device, wide), self.right.to(x.device, wide)).dense()
        delta = delta if mask is None else delta * (torch.as_tensor(mask, device=x.device) != 0)
        return nearest(x, delta, length(delta), placed(clip, delta))[0]

    def save(self, path: str | PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file, aside and renamed, in float32 or in half the space as float16.

        The norms are stored beside the factors. In float16 each image's factors are scaled to 1 at most, and back again
        when loaded, so that neither the range nor the rounding of float16 changes how long a perturbation is.
        """
        if dtype not in (torch.float16, torch.float32):
            raise ValueError(f"factors are saved as torch.float16 or torch.float32, not {dtype}")
        pair = self if dtype == torch.float32 else Factors(_to_one(self.left), _to_one(self.right))
        tensors = {"left": pair.left.to(dtype), "right": pair.right.to(dtype), "norm": self.norm().float()}
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        write_whole(path, data)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Factors:
        """Read what `save` wrote; always float32."""
        try:
            tensors = load_file(Path(path))
            left, right, norm = (tensors[name] for name in ("left", "right", "norm"))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a file of factors: {error}; write one with Factors.save") from error
        factors = cls(left.float(), right.float())
        if left.dtype == torch.float32:
            return factors
        return factors.scaled(norm / factors.norm().clamp_min(1e-30))


def _to_one(values: Tensor) -> Tensor:
    return values / values.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)


def truncated(delta: Tensor, rank: int) -> Factors:
    """The best rank-`rank` approximation of every channel (Eckart-Young), its singular values split evenly."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[..., :rank].sqrt()
    return Factors(left[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * right[..., :rank, :])


def fitted(given: Factors, x: Tensor, rank: int) -> Factors:
    """The caller's factors for the images x: of their shape, device and dtype, truncated to `rank` where longer."""
    n, c, h, w = x.shape
    shapes = tuple(given.left.shape), tuple(given.right.shape)
    columns = given.left.shape[-1]
    if shapes != ((n, c, h, columns), (n, c, columns, w)):
        raise ValueError(f"init holds factors {shapes[0]} and {shapes[1]}, which do not fit images {tuple(x.shape)}")
    given = Factors(given.left.to(x), given.right.to(x))
    if not bool(torch.isfinite(given.left).all() & torch.isfinite(given.right).all()):
        raise ValueError("init holds factors with NaN or infinity; give finite ones")
    return given if columns <= rank else truncated(given.dense(), rank)


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
