"""What a search in half precision costs against one in float32, on this machine's CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from art_lowrank import lowrank_pgd
from art_lowrank.record import JSON
from art_lowrank.statistics import median_ratio


def cost_values(model: nn.Module, x: Tensor, y: Tensor, settings: Mapping[str, Any]) -> JSON:
    """The ratio of process times, repeats interleaved; the first pair warms up and does not count."""
    given = {name: value for name, value in settings.items() if name not in ("precision", "repeats")}

    def seconds(precision: str) -> float:
        started = time.process_time()
        lowrank_pgd(model, x, y, precision=precision, **given)
        return time.process_time() - started

    pairs = [(seconds(settings["precision"]), seconds("float32")) for _ in range(settings["repeats"] + 1)][1:]
    ratio = median_ratio([half for half, _ in pairs], [full for _, full in pairs])
    return {"device": "cpu", "median_ratio": ratio.value, "low": ratio.low, "high": ratio.high}
