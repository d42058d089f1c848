"""Evaluation of many models under many attacks: a plan in, a folder of records and images out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_lowrank.evaluate.plan import Cell, Plan, plan_of, read_plan
    from art_lowrank.evaluate.run import Evaluation, evaluate
    from art_lowrank.evaluate.store import VOLATILE, Store

_HOMES = {
    "VOLATILE": "store",
    "Cell": "plan",
    "Evaluation": "run",
    "Plan": "plan",
    "Store": "store",
    "evaluate": "run",
    "plan_of": "plan",
    "read_plan": "plan",
}

__all__ = ["VOLATILE", "Cell", "Evaluation", "Plan", "Store", "evaluate", "plan_of", "read_plan"]


def __getattr__(name: str) -> Any:
    """Names are imported when first used: a report needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'art_lowrank.evaluate' has no attribute {name!r}")
    return getattr(import_module(f"art_lowrank.evaluate.{_HOMES[name]}"), name)
