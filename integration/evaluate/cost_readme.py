"""Writes what the engine costs between its own markers of the README, from the records: `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

import training_readme
from cost import LIMIT, RESULTS

from art_lowrank.record import Record
from art_lowrank.statistics import Interval

README = training_readme.README
START = "<!-- evaluate: written by integration/evaluate/cost_readme.py from integration/results/evaluate.jsonl -->"
END = "<!-- end of evaluate -->"


def section(records: list[Record]) -> str:
    """A pure function of the records; of what was measured twice the last counts."""
    return "\n".join(["What the engine costs, on one thread of one machine:", "", *lines(records)])


def lines(records: list[Record]) -> Iterator[str]:
    """One line a measurement."""
    for record in {(r.model, str(r.settings.get("net"))): r for r in records}.values():
        if record.model == "engine / bare loop":
            ratio = Interval(*(float(record.values[key]) for key in ("value", "low", "high")))
            verdict = "met" if ratio.high <= LIMIT else "missed"
            yield (
                f"- evaluating `{record.settings['net']}` ({record.n} images, rank {record.settings['rank']}, "
                f"{record.settings['steps']} gradients) takes {ratio} times the bare attack loop, median of "
                f"{record.settings['repeats']} interleaved repeats, 95 % (aim: at most {LIMIT:.2f}, **{verdict}**)"
            )
        elif record.model == "resume scan":
            yield f"- opening a folder of {record.n:,} records takes {middle(record):.2f} s (aim: 1 s)"
        elif record.model == "report":
            size = float(record.values["bytes"]) / 1e6
            verdict = "met" if middle(record) < 5 and size < 3 else "missed"
            yield (
                f"- `art-lowrank report` of {record.settings['models']} models x {record.settings['attacks']} attacks "
                f"x {record.n:,} images, without pictures, takes {middle(record):.1f} s for {size:.1f} MB "
                f"(aim: 5 s and 3 MB, **{verdict}**)"
            )
        else:
            aim = "two minutes" if record.model.endswith("evaluate") else "0.3 s"
            name = (
                "`art-lowrank evaluate`, bare,"
                if record.model.endswith("evaluate")
                else "`art-lowrank evaluate --help`"
            )
            yield f"- {name} takes {middle(record):.{1 if aim == 'two minutes' else 2}f} s (aim: {aim})"


def middle(record: Record) -> float:
    seconds = sorted(record.volatile["seconds"])
    return seconds[len(seconds) // 2]


if __name__ == "__main__":
    training_readme.command(__doc__, RESULTS, section, START, END)
