"""Writes what more workers and other layouts bring between its own markers of the README, from the records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

import training_readme

from art_lowrank.record import Record
from art_lowrank.statistics import Interval

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cluster.jsonl"
START = "<!-- cluster: written by integration/cluster/cluster_readme.py from integration/results/cluster.jsonl -->"
END = "<!-- end of cluster -->"
HELPS = "helps"


def section(records: list[Record]) -> str:
    """A pure function of the records; of what was measured twice the last counts."""
    told = ("change", "processes")
    latest = {(r.kind, r.model, r.values["device"], *map(r.settings.get, told)): r for r in records}
    workers = [record for record in latest.values() if record.kind == "workers"]
    epochs = [record for record in latest.values() if record.kind == "epochs"]
    layouts = [record for record in latest.values() if record.kind == "layout"]
    return "\n".join([*_workers(workers), "", *_epochs(epochs), "", *_layouts(layouts)])


def _workers(records: list[Record]) -> Iterator[str]:
    yield "Two workers against one, images x gradients a second of an evaluation on Ray, median of interleaved repeats;"
    yield "nets with random weights (`tiny`: a WRN-10-1):"
    yield ""
    for record in records:
        one, two = (float(record.values[f"images x gradients a second, {count}"]) for count in (1, 2))
        yield (
            f"- `{record.model}` ({record.values['device']}, {record.n} images, {record.settings['repeats']} repeats): "
            f"{one:,.0f} and {two:,.0f}, ratio {_interval(record.values['two / one'])}"
        )


def _epochs(records: list[Record]) -> Iterator[str]:
    yield "One process against several, seconds of an epoch of `art-lowrank train` (random images, 3 x 32 x 32; small"
    yield "net, Madry with 5 steps), median of interleaved runs:"
    yield ""
    for record in records:
        count, repeats = record.settings["processes"], record.settings["repeats"]
        one, several = (float(record.values[f"seconds, {number}"]) for number in (1, count))
        yield (
            f"- {record.values['device']}, {record.n} images, {repeats} runs each: 1 process {one:.1f} s, "
            f"{count} processes {several:.1f} s, ratio {_interval(record.values['one / several'])}"
        )


def _layouts(records: list[Record]) -> Iterator[str]:
    yield "Plain float32 against a change, time of a forward pass and the gradient of the input (above 1: it helps):"
    yield ""
    yield "| net | device, images a batch | change | plain / changed, 95 % | |"
    yield "|---|---|---|---|---|"
    for record in records:
        ratio = _interval(record.values["ratio"])
        said = HELPS if ratio.low > 1 else "harms" if ratio.high < 1 else "no difference shown"
        where = f"{record.values['device']}, {record.settings['batch']}"
        yield f"| {record.model} | {where} | {record.settings['change']} | {ratio} | {said} |"


def _interval(values: object) -> Interval:
    assert isinstance(values, list)
    return Interval(*map(float, values))


if __name__ == "__main__":
    training_readme.command(__doc__, RESULTS, section, START, END)
