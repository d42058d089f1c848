"""Modules of integration/training can be imported after this one."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))
