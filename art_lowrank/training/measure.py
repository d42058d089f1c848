"""How good a model is on some images, clean and under an adversary: what validation and the model card report."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from art_lowrank.attack.oracle import evaluating
from art_lowrank.training.adversaries import Adversary, Logits


class Right(NamedTuple):
    """Per image: is it classified correctly, and is it still under attack (None where there was none)?"""

    clean: Tensor
    robust: Tensor | None

    def shares(self) -> dict[str, float]:
        """Accuracies by name."""
        found = {"clean": float(self.clean.double().mean())}
        return found if self.robust is None else {**found, "robust": float(self.robust.double().mean())}


def measured(
    model: nn.Module, logits: Logits, x: Tensor, y: Tensor, adversary: Adversary | None = None, batch: int = 512
) -> Right:
    """Evaluate in evaluation mode; images that are wrong before the attack are not robust."""
    place = next(model.parameters()).device
    clean, robust = [], []
    with evaluating(model):
        for start in range(0, len(x), batch):
            images, labels = x[start : start + batch].to(place), y[start : start + batch].to(place)
            found = right(logits, images, labels)
            clean.append(found.cpu())
            if adversary is not None:
                robust.append((found & right(logits, adversary(logits, images, labels, start), labels)).cpu())
    return Right(torch.cat(clean), torch.cat(robust) if robust else None)


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
