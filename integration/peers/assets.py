"""The shared nets and images the comparisons run on. They are not in the repository (licences); a folder holds them."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

VARIABLE = "ART_LOWRANK_ASSETS"
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "assets"  # beside the repository


def folder() -> Path:
    """Where the assets are; ends the program with one line where they are absent."""
    found = Path(os.environ.get(VARIABLE, BESIDE))
    if not (found / "zoo.py").is_file():
        raise SystemExit(f"no zoo.py in {found}: set {VARIABLE} to the folder of nets and images")
    return found


@cache
def zoo() -> ModuleType:
    """The loader that lies beside the assets, imported by its path."""
    spec = importlib.util.spec_from_file_location("zoo", folder() / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def net(name: str) -> nn.Module:
    """A net in evaluation mode that takes pixels in [0, 1] and returns logits."""
    model: nn.Module = zoo().net(name)
    return model


def cifar10(split: str, n: int) -> tuple[Tensor, Tensor]:
    """The first n images of a split, contiguous float32 in [0, 1], and their labels."""
    x, y = zoo().images("cifar10", split, n)
    if len(y) < n:
        raise SystemExit(f"the {split} split holds {len(y)} images, fewer than --n {n}")
    return x, y
