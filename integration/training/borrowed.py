"""What integration/peers has and training uses, and a digest of the code that is measured."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))

from assets import net, zoo
from condlr import CondLRSGD, Factored, condense
from unfold import UnfoldConv2d

import art_lowrank

__all__ = ["CondLRSGD", "Factored", "UnfoldConv2d", "condense", "digest", "net", "zoo"]


def digest() -> str:
    """Of the package's low-rank weights, what hangs on steps included."""
    files = sorted((Path(art_lowrank.__file__).parent / "weights").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
