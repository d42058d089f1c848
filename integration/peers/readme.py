"""Writes the results between the markers of the README from the records: `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from facts import ROBUST_NETS, aimed, ratio_of
from strength_table import markdown_rows, promises

from art_lowrank.record import Record, read

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "integration" / "results"
START = "<!-- results: written by integration/peers/readme.py from integration/results -->"
END = "<!-- end of results -->"
SHOWN = (  # at eps 0.5; the whole table comes from strength_table.py
    "clean",
    "lora-pgd[paper] r=3 N=10",
    "lora-pgd[paper] r=3 N=100",
    "lowrank-pgd[power] r=3 N=4",
    "lowrank-pgd[power] r=3 N=10",
    "lora-pgd[paper] r=10 N=10",
    "lowrank-pgd[power] r=10 N=10",
    "torchattacks PGDL2 N=100",
    "ART PGD N=100",
    "foolbox L2PGD N=100",
    "AutoAttack APGD-CE N=100",
    "AutoAttack APGD-DLR N=100",
    "adv-lib APGD-DLR N=100",
    "lowrank-pgd[power] r=full N=20",
)


def section(strength: list[Record], timing: list[Record]) -> str:
    """The Markdown between the markers: a pure function of the records."""
    robust = [record for record in strength if record.model in ROBUST_NETS]
    n, seeds = robust[0].n, sorted({record.seed for record in robust if record.seed is not None})
    torch = robust[0].versions["torch"]
    lines = [
        "## Measured",
        "",
        "Robust accuracy in percent of four adversarially or provably trained CIFAR-10 nets, l2, eps 0.5, the first",
        f"{n} test images, mean over seeds {', '.join(map(str, seeds))}; settings were chosen on training images.",
        f"CPU, torch {torch}.",
        "r is the rank of 32, N the gradients an image. Lower is a stronger attack.",
        _seeds(robust),
        "",
        *markdown_rows(robust, 0.5, SHOWN),
        "",
        "Paired differences on the same images, with 95 % intervals, beside what we aimed at:",
        "",
        *promises(robust),
        "",
        *_costs(timing),
        "All of it, with more attacks, eps 1.0 and a standard net: `integration/peers/README.md`.",
    ]
    return "\n".join(lines)


def _seeds(records: list[Record]) -> str:
    """How often the seed changed anything for our own search: intervals are over images, not over seeds."""
    cells: dict[tuple[str, str], set[str]] = {}
    for record in records:
        if record.attack == "lowrank-pgd[power]" and record.seed is not None:
            found = cells.setdefault((record.model, str(sorted(record.settings.items()))), set())
            found.add(str(record.values["broken"]))
    same = sum(len(outcomes) == 1 for outcomes in cells.values())
    return (
        f"For `lowrank-pgd[power]` the seeds gave the same outcome on every image in {same} of {len(cells)} cells, so "
        "they are one run, not three; the intervals are over images."
    )


def _costs(timing: list[Record]) -> list[str]:
    """Ratios of process times, one thread; nothing where nothing was measured."""
    latest = {record.id: record for record in timing}.values()
    if not latest:
        return []
    rows = [
        "Cost, as ratios of process time on one thread (median of interleaved repeats, 95 % interval):",
        "",
        "| what | net or data | rank | ratio | aim |",
        "|---|---|---:|---:|---|",
    ]
    return [*rows, *(_cost(record) for record in latest), ""]


def _cost(record: Record) -> str:
    ratio, against = ratio_of(record), str(record.settings["against"])
    aims, met = aimed(record)
    what = "update / the net's forward and backward" if against == "model" else f"update / {against}"
    if record.kind == "art-overhead":
        what = f"`LowRankPGD.generate` / {against}"
    where = record.model if record.model != "none" else record.data
    numbers = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    aim = f"{', '.join(f'{name} {limit:g}' for name, limit in aims)}: {'met' if met else 'missed'}"
    return f"| {what} | {where} | {record.settings['rank']} | {numbers} | {aim} |"


def written(readme: str, text: str) -> str:
    """The README with the text between its markers."""
    before, rest = readme.split(START)
    return f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where the README says something else")
    check, readme = parser.parse_args().check, ROOT / "README.md"
    new = written(readme.read_text(encoding="utf-8"), section(*records()))
    if not check:
        readme.write_text(new, encoding="utf-8")
    elif new != readme.read_text(encoding="utf-8"):
        sys.exit("README.md does not say what the records say; run integration/peers/readme.py")


def records() -> tuple[list[Record], list[Record]]:
    """What was measured: strength, and times."""
    timing = RESULTS / "timing.jsonl"
    return read(RESULTS / "strength.jsonl"), read(timing) if timing.exists() else []


if __name__ == "__main__":
    main()
