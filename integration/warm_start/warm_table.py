"""Prints what the records of `warm_grid.py` and `warm_cost.py` say: a table a task, and the targets. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from art_lowrank.record import Record, read, unpack
from art_lowrank.statistics import Interval, paired_difference

RESULTS = Path(__file__).resolve().parents[1] / "results" / "warm_start.jsonl"
PGD, FAST, FULL = "PGD-7", "fast", "warm start, full-rank store"
QUARTER = "PGD-7, a quarter of the epochs"
STILL = "not moved with the image"
Flags = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Row:
    """A contender's trainings with the settings it was tuned to; (seeds, images) of what was right and what held."""

    name: str
    settings: dict[str, object]
    judge: str
    right: Flags
    holds: Flags
    single: float
    seconds: float

    @property
    def total(self) -> int:
        """Gradients an image in all, the weights' own included."""
        return int(str(self.settings["gradients"])) * int(str(self.settings["epochs"]))


def tasks(records: Sequence[Record]) -> dict[str, dict[str, Row]]:
    """By task, then by contender, in the order of the records; those that have not all three seeds are left out."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.kind == "warm-start" and record.attack.startswith("APGD"):
            key = str(record.settings["task"]), str(record.settings["contender"])
            grouped.setdefault(key, []).append(record)
    found: dict[str, dict[str, Row]] = {}
    for (task, name), group in grouped.items():
        if len({record.seed for record in group}) >= 3 and not any("diverged" in r.values for r in group):
            found.setdefault(task, {})[name] = row(name, group)
    return found


def row(name: str, records: list[Record]) -> Row:
    right = np.array([unpack(str(r.values["right"]), len(str(r.values["right"])) * 4) for r in records], dtype=float)
    holds = np.array([unpack(str(r.values["holds"]), r.n) for r in records], dtype=float)
    single = float(np.mean([float(str(r.values["single"])) for r in records]))
    seconds = float(np.mean([float(str(r.volatile["train_seconds"])) for r in records]))
    judge = f"{records[0].attack.split(' mnist')[0].split(' cifar10')[0]}, {records[0].n} images"
    return Row(name, dict(records[0].settings), judge, right, holds, single, seconds)


def table(rows: dict[str, Row]) -> Iterator[str]:
    """Percent, means over seeds; differences from PGD-7 are paired over images."""
    yield "| training | gradients | time | rate, step, reset | clean | one step | robust | robust, minus PGD-7 |"
    yield "|---|---:|---:|---|---:|---:|---:|---:|"
    base = rows.get(PGD)
    for one in sorted(rows.values(), key=lambda r: -r.holds.mean()):
        against = "" if base is None or one is base else paired_difference(one.holds, base.holds).points()
        cost = f"{one.total} | " + ("" if base is None else f"{one.seconds / base.seconds:.2f}")
        tuned = f"{one.settings['rate']:g}, {one.settings['length']:g}, {one.settings['reset'] or '-'}"
        accuracy = f"{100 * one.right.mean():.1f} | {100 * one.single:.1f} | {100 * one.holds.mean():.1f}"
        yield f"| {one.name} | {cost} | {tuned} | {accuracy} | {against} |"


@dataclass(frozen=True)
class Target:
    """What was aimed at: a difference (in shares) and the least it should be."""

    text: str
    value: Interval
    least: float

    def __str__(self) -> str:
        word = "met" if self.value.value >= self.least else "missed"
        return f"- {self.text}: {self.value.points()}. **{word}**"


AIMS = (  # task, ours, the other, the least difference
    ("mnist l2 2.0", "warm start, rank 3", PGD, -0.03),
    ("mnist l2 2.0", "warm start, rank 3", FAST, 0.15),
    ("mnist linf 0.3", "warm start, rank 5", PGD, -0.06),
    ("mnist linf 0.3", "warm start, rank 5", FAST, 0.35),
)


def targets(found: dict[str, dict[str, Row]]) -> Iterator[str]:
    for task, ours, other, least in AIMS:
        rows = found.get(task, {})
        if ours in rows and other in rows:
            text = f"{task}, {ours}: robust at least {other} {100 * least:+.0f} points"
            yield str(Target(text, paired_difference(rows[ours].holds, rows[other].holds), least))


def reported(found: dict[str, dict[str, Row]]) -> Iterator[str]:
    """What nothing was promised about: against others at equal gradients, and what moving the factors is worth."""
    for task, rows in found.items():
        for name, one in rows.items():
            if name.startswith("warm start, rank") and not name.endswith((STILL, "two steps")):
                for other in (FAST, QUARTER, FULL, f"{name}, {STILL}"):
                    aimed = (task, name, other) in [aim[:3] for aim in AIMS]
                    if other in rows and not aimed:
                        yield f"- {task}, {name} minus {other}: {gap(one, rows[other]).points()}"


def gap(a: Row, b: Row) -> Interval:
    return paired_difference(a.holds, b.holds)


def costs(records: Sequence[Record]) -> Iterator[str]:
    """The last measurement of every cost, beside what was aimed at."""
    last = {(r.attack, r.model): r for r in records if r.kind == "warm-start-cost"}
    yield "| what | net | ratio | aim | |"
    yield "|---|---|---:|---|---|"
    for record in last.values():
        found = Interval(*map(float, record.volatile["ratio"]))  # type: ignore[arg-type]
        limit = 0.1 if record.attack.startswith("store") else 0.3 if record.attack.endswith(PGD) else None
        aim = "| |" if limit is None else f"at most {limit:g} | {'met' if found.value <= limit else 'missed'} |"
        yield f"| {record.attack} | {record.model} | {found} | {aim}"


def watches(records: Sequence[Record]) -> Iterator[str]:
    """What the watch over catastrophic overfitting saw: the largest gaps, and what came of it."""
    cases: dict[str, list[Record]] = {}
    for record in records:
        if record.kind == "warm-start-watch":
            cases.setdefault(str(record.settings["case"]), []).append(record)
    yield "| store | largest FGSM minus PGD accuracy | robust at the end |"
    yield "|---|---|---|"
    for case, group in cases.items():
        gaps, robust = [largest(r) for r in group], [100 * float(str(r.values["robust"])) for r in group]
        yield f"| {case} | {', '.join(f'{gap:.0f}' for gap in gaps)} | {', '.join(f'{r:.1f}' for r in robust)} |"


def largest(record: Record) -> float:
    gaps: Sequence[float] = record.values["gaps"]  # type: ignore[assignment]
    return 100 * max(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, nargs="+", default=[RESULTS])
    records = [record for path in parser.parse_args().results for record in read(path)]
    found = tasks(records)
    for task, rows in found.items():
        print("\n".join([f"\n{task}, {next(iter(rows.values())).judge}\n", *table(rows)]))
    print("\n".join(["", *targets(found), *reported(found), "", *watches(records), "", *costs(records)]))


if __name__ == "__main__":
    main()
