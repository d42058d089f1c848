"""How good a model is on some images, clean and under an adversary: what validation and the model card report."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from art_lowrank.attack.oracle import evaluating
from art_lowrank.training.adversaries import Adversary, Logits, placed
from art_lowrank.training.moves import Place
from art_lowrank.training.team import ALONE, Team, together


class Right(NamedTuple):
    """Per image: is it classified correctly, and is it still under attack (None where there was none)?"""

    clean: Tensor
    robust: Tensor | None

    def shares(self) -> dict[str, float]:
        """Accuracies by name."""
        found = {"clean": float(self.clean.double().mean())}
        return found if self.robust is None else {**found, "robust": float(self.robust.double().mean())}


def measured(
    model: nn.Module,
    logits: Logits,
    x: Tensor,
    y: Tensor,
    adversary: Adversary | None = None,
    batch: int = 512,
    team: Team = ALONE,
) -> Right:
    """Evaluate in evaluation mode; images that are wrong before the attack are not robust.

    Each process of a team takes every so manieth image, and all get to know of all.
    """
    rows = torch.arange(len(x))

    def mine() -> Tensor:
        parts = [torch.zeros(0, 2, dtype=torch.bool)]
        with evaluating(model):
            for start in range(0, len(x), batch):
                some = slice(start + team.rank, min(start + batch, len(x)), team.size)
                if len(rows[some]):
                    parts.append(_judged(model, logits, x[some], y[some], adversary, Place(rows[some]), start))
        return torch.cat(parts)

    parts, found = together(team, mine), torch.zeros(len(x), 2, dtype=torch.bool)
    inside = rows % batch % team.size  # which process had them
    for rank, part in enumerate(parts):
        found[inside == rank] = part
    return Right(found[:, 0], None if adversary is None else found[:, 1])


def _judged(
    model: nn.Module, logits: Logits, x: Tensor, y: Tensor, adversary: Adversary | None, place: Place, number: int
) -> Tensor:
    """Which images of a batch are right, and right under attack too, (n, 2)."""
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    clean = right(logits, x, y)
    if adversary is None:
        return torch.stack([clean, clean], 1).cpu()
    robust = clean & right(logits, placed(adversary, place)(logits, x, y, number), y)
    return torch.stack([clean, robust], 1).cpu()


def fingerprint(*tensors: Tensor) -> str:
    """A hash of shapes and numbers, 16 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()[:16]


def architecture(model: nn.Module) -> str:
    """A hash of the names and shapes of parameters and buffers."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


@torch.no_grad()
def right(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
    """Which images are classified correctly."""
    return logits(x).argmax(1) == y
