"""What integration/peers has and the claims use: the assets, names of nets, the attack's digest."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))

from assets import net, zoo
from facts import ROBUST_NETS, SOURCE, number, source

__all__ = ["ROBUST_NETS", "SOURCE", "net", "number", "source", "zoo"]
