"""What tables say of trained nets: means over seeds, paired on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from study import Missing, Notes, Question, percent

from art_lowrank.statistics import Interval, paired_difference


def values(notes: Notes, questions: Sequence[Question], path: str) -> list[Any]:
    """A value of every seed; one that diverged has none, and says so."""
    found = []
    for question in questions:
        value: Any = notes.record(question).values
        if "diverged" in value:
            raise Missing(f"{question} diverged")
        for part in path.split("/"):
            value = value[part]
        found.append(value)
    return found


def mean(notes: Notes, questions: Sequence[Question], path: str) -> float:
    return float(np.mean([float(value) for value in values(notes, questions, path)]))


def flags(notes: Notes, questions: Sequence[Question], path: str) -> Any:
    """(seeds, n): 1 where the net stayed right."""
    values(notes, questions, path)
    return np.stack([notes.holds(question, path) for question in questions])


def robust(notes: Notes, questions: Sequence[Question], path: str) -> float:
    return float(flags(notes, questions, path).mean())


def difference(notes: Notes, ours: Sequence[Question], other: Sequence[Question], path: str) -> Interval:
    """Robust accuracy of ours less that of the other, over images; seeds are averaged first."""
    return paired_difference(flags(notes, ours, path), flags(notes, other, path))


def word(one: Interval) -> str:
    """What such a difference shows."""
    return "**more robust**" if one.low > 0 else "**less robust**" if one.high < 0 else "no difference shown"


def spread(notes: Notes, questions: Sequence[Question], path: str) -> str:
    """Robust accuracy in percent, and between which values the seeds lie."""
    each = [percent(float(row.mean())) for row in flags(notes, questions, path)]
    found = percent(robust(notes, questions, path))
    return found if len(each) == 1 else f"{found} ({min(each, key=float)}-{max(each, key=float)})"
