"""What integration/training and integration/peers have and the comparison of warm starts uses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import beside  # noqa: F401
from borrowed import net
from cost import ratio
from lenet import Parts, parts
from robustness import robust

import art_lowrank

__all__ = ["Parts", "digest", "net", "parts", "ratio", "robust"]


def digest() -> str:
    """Of the package's training code."""
    files = sorted((Path(art_lowrank.__file__).parent / "training").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
