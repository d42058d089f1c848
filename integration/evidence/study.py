"""What a claim is judged from: questions, the notes that hold their answers, and how tables say them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from worlds import WORLDS, World

from art_lowrank.record import JSON, Record, unpack
from art_lowrank.statistics import Interval, mean_paired_difference, wilson

Flags: TypeAlias = npt.NDArray[np.float64]  # (n,) of 0 and 1


@dataclass(frozen=True)
class Scale:
    """How much is measured, and on whose nets."""

    small: bool = False
    where: str = "assets"
    n: int | None = None  # instead of the number the mode has

    @property
    def world(self) -> World:
        return WORLDS[self.where]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of trainings."""
        return (0,) if self.small else (0, 1, 2)

    def images(self, model: str = "", most: int = 500) -> int:
        """How many images: `most` in the full mode, fewer for nets that are slow."""
        most = min(most, 100) if self.small or self.world.subjects[model].slow else most
        return min(most, self.n or most, self.world.subjects[model].images)


@dataclass(frozen=True)
class Question:
    """One measurement. Its kind says who answers it; the rest, but for `job`, goes into the record as it is."""

    kind: str
    model: str
    data: str
    attack: str
    n: int
    settings: Mapping[str, JSON] = field(default_factory=dict)
    seed: int | None = 0
    job: Any = None  # what the settings say in words, for the one who answers

    @property
    def asked(self) -> Record:
        """The record without results: its id is known before anything is run."""
        return Record(self.kind, self.model, self.data, self.attack, self.seed, self.n, self.settings, {})

    def __str__(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.model}, {self.attack} {settings} n={self.n} seed={self.seed}"


class Missing(Exception):
    """A question without an answer."""


class Notes:
    """The last answer to every question."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = {record.id: record for record in records}

    def has(self, question: Question) -> bool:
        return question.asked.id in self.records

    def record(self, question: Question) -> Record:
        found = self.records.get(question.asked.id)
        if found is None:
            raise Missing(str(question))
        return found

    def value(self, question: Question, name: str) -> Any:
        return self.record(question).values[name]

    def holds(self, question: Question, name: str = "holds", n: int | None = None) -> Flags:
        """1 where the net stayed right, of the first n images; `name` is a path through the values."""
        record = self.record(question)
        value: Any = record.values
        seen = record.n
        for part in name.split("/"):
            seen = value.get("n", seen)  # of that look, which may have seen fewer
            value = value[part]
        return np.array(unpack(value, seen)[:n], dtype=np.float64)

    def accuracy(self, question: Question, name: str = "holds") -> Interval:
        flags = self.holds(question, name)
        return wilson(int(flags.sum()), len(flags))

    def mean_difference(self, pairs: Iterable[tuple[Question, Question]]) -> Interval:
        """Robust accuracy under ours less that under the other, over nets: negative where ours is stronger."""
        return mean_paired_difference([(self.holds(ours), self.holds(other)) for ours, other in pairs])


Answer: TypeAlias = Callable[[Question, Notes], tuple[dict[str, JSON], dict[str, JSON]]]  # values, volatile


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; numbers to the right."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def percent(share: float | Interval) -> str:
    value = share.value if isinstance(share, Interval) else share
    return f"{100 * value:.1f}"


def cells(say: Callable[[Any], str], items: Iterable[Any]) -> list[str]:
    """Cells of a table, a dash where something was not measured."""
    found = []
    for item in items:
        try:
            found.append(say(item))
        except Missing:
            found.append("-")
    return found


def cell(say: Callable[[], str]) -> str:
    """One of them."""
    return cells(lambda _: say(), [None])[0]


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
