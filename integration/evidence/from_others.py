"""What the other folders of integration have and this one uses; the rest of them is imported where it is needed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

from assets import folder
from condlr import CondConv2d, CondLinear, CondLRSGD, Factored, condense

__all__ = ["CondConv2d", "CondLRSGD", "CondLinear", "Factored", "condense", "folder"]
