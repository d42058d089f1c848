"""What RobustBench's model cards say, to compare with."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("published.csv")


class Card(NamedTuple):
    """Accuracies in percent on the whole test set, as published."""

    threat: str  # "L2" or "Linf"
    eps: str
    clean: float
    autoattack: float
    best_known: float | None  # by whatever attack is stronger than AutoAttack there
    unreliable: bool  # RobustBench's own mark: AutoAttack overestimates this one

    def __str__(self) -> str:
        """In words."""
        best = f", best known {self.best_known:.2f} %" if self.best_known is not None else ""
        doubt = ", called unreliable there" if self.unreliable else ""
        return f"clean {self.clean:.2f} %, AutoAttack {self.autoattack:.2f} % at {self.threat} {self.eps}{best}{doubt}"


def published(model: str) -> Card | None:
    """The card of `robustbench:DATASET/THREAT/NAME`, if there is one."""
    return _cards().get(model.removeprefix("robustbench:").partition("[")[0])


@cache
def _cards() -> dict[str, Card]:
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {f"{row['dataset']}/{row['threat']}/{row['name']}": _card(row) for row in csv.DictReader(lines)}


def _card(row: dict[str, str]) -> Card:
    best = float(row["best_known"]) if row["best_known"] else None
    return Card(
        row["threat"], row["eps"], float(row["clean"]), float(row["autoattack"]), best, row["unreliable"] == "yes"
    )
