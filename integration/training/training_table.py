"""Prints what the records of `grid.py` and `cost.py` say: one row a contender, and the targets judged. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from art_lowrank.record import Record, read, unpack
from art_lowrank.statistics import Interval, paired_difference, wilson

RESULTS = Path(__file__).resolve().parents[1] / "results" / "training.jsonl"
CIFAR = "cifar10_resnet4b_linf_adv"
DENSE = ("dense", 1)
OURS, PEER, VANILLA = "condlr 1.5", "CondLR, our implementation", ("vanilla U s V", "vanilla U V")

Key = tuple[str, float]
Flags = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Row:
    """A contender's trainings with the rate it was tuned to: (seeds, images) of what was right and what held."""

    key: Key
    rate: float
    right: Flags
    holds: Flags
    values: Sequence[dict[str, object]]
    judge: str
    diverged: int

    @property
    def parameters(self) -> float:
        return float(np.mean([float(str(v["parameters"])) for v in self.values]))

    @property
    def cond(self) -> float | None:
        found = [float(str(v["cond"])) for v in self.values if v["cond"] is not None]
        return max(found) if found else None


def rows(records: Sequence[Record], model: str = "lenet5") -> dict[Key, Row]:
    """By contender, in the order of the records; what is still without its three seeds is left out."""
    grouped: dict[Key, list[Record]] = {}
    for record in records:
        if record.kind == "training" and record.attack.startswith("APGD") and record.model == model:
            key = (str(record.settings["contender"]), float(str(record.settings["keep"])))
            grouped.setdefault(key, []).append(record)
    return {key: row(key, found) for key, found in grouped.items() if len({r.seed for r in found}) >= 3}


def row(key: Key, records: Sequence[Record]) -> Row:
    good = [record for record in records if "diverged" not in record.values]
    right = np.array([unpack(str(r.values["right"]), len(str(r.values["right"])) * 4) for r in good], dtype=float)
    holds = np.array([unpack(str(r.values["holds"]), r.n) for r in good], dtype=float)
    rate = float(str(records[0].settings["lr"]))
    judge = f"{records[0].attack}, {records[0].n} images"
    return Row(key, rate, right, holds, [dict(r.values) for r in good], judge, len(records) - len(good))


def table(found: dict[Key, Row]) -> Iterator[str]:
    """Accuracies in percent, means over seeds, and differences from the dense net on the same images."""
    yield "| training | stored | learning rate | clean | robust | robust, minus dense | largest cond(W) |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    whole = found[DENSE].parameters if DENSE in found else 1.0
    for key, one in sorted(found.items(), key=lambda item: (-item[0][1], item[0][0])):
        against = "" if key == DENSE or DENSE not in found else difference(one.holds, found[DENSE].holds).points()
        cond = "" if one.cond is None else f"{one.cond:.4g}"
        failed = f" ({one.diverged} of {one.diverged + len(one.holds)} diverged)" if one.diverged else ""
        numbers = f"{100 * one.right.mean():.2f} | {100 * one.holds.mean():.1f} | {against} | {cond}"
        share = f"{100 * one.parameters / whole:.1f} %"
        yield f"| {key[0]}{failed} | {share} | {one.rate:g} | {numbers} |"


def difference(a: Flags, b: Flags) -> Interval:
    """Paired over images, seeds averaged first."""
    return paired_difference(a, b)


@dataclass(frozen=True)
class Target:
    """What was aimed at: a difference (in shares) and the least it should be."""

    text: str
    value: Interval
    least: float
    floor: float | None = None  # the least the lower end may be

    def __str__(self) -> str:
        met = self.value.value >= self.least and (self.floor is None or self.value.low >= self.floor)
        return f"- {self.text}: {self.value.points(2)}. **{'met' if met else 'missed'}**"


def targets(found: dict[Key, Row]) -> Iterator[Target]:
    """The promises about accuracy that the records can judge."""
    if DENSE not in found:
        return
    dense = found[DENSE]
    for keep, robust, red in ((0.2, -0.02, "80 %"), (0.07, 0.0, "93 %")):
        ours = found.get((OURS, keep))
        if ours is None:
            continue
        who = f"{red} fewer parameters (keep={keep:g}, max_cond 1.5)"
        yield Target(f"{who}: clean at least dense - 0.5", difference(ours.right, dense.right), -0.005, -0.03)
        aim = f"robust at least dense{100 * robust:+.0f}" if robust else "robust at least dense"
        yield Target(f"{who}: {aim}, lower end at least -3", difference(ours.holds, dense.holds), robust, -0.03)
        for name in VANILLA:
            if (name, keep) in found:
                text = f"{who}: robust at least 5 above tuned {name}"
                yield Target(text, difference(ours.holds, found[name, keep].holds), 0.05)
        if (PEER, keep) in found:
            text = f"{who}: robust not below {PEER}, at equal ranks"
            yield Target(text, difference(ours.holds, found[PEER, keep].holds), 0.0, -0.03)


def autoattack(records: Sequence[Record]) -> Iterator[str]:
    """AutoAttack's word on the finalists."""
    for record in records:
        if record.kind == "training-autoattack":
            robust = wilson(sum(unpack(str(record.values["holds"]), record.n)), record.n).percent()
            name = f"{record.settings['contender']}, keep={record.settings['keep']}"
            yield f"- {record.attack}, first {record.n} test images, seed {record.seed}: {name}: {robust}"


LIMITS = {  # of the ratios' medians: at most, or at least
    "step / dense step": ("at most", 0.75),
    "enforcement / step": ("at most", 0.1),
    "exported pairs / dense, inference": ("at most", 0.7),
    "unfold / two convolutions, time": ("at least", 2.0),
    "unfold / two convolutions, bytes": ("at least", 5.0),
}


def costs(records: Sequence[Record]) -> Iterator[str]:
    """The last measurement of every cost, beside what was aimed at."""
    last = {(r.attack, str(r.settings)): r for r in records if r.kind == "training-cost"}
    yield "| what | net | ratio | aim | |"
    yield "|---|---|---:|---|---|"
    for record in last.values():
        keep, rule = record.settings["keep"], record.settings["ranks"]
        net = f"keep={keep}, {rule} ranks" if keep else "one layer"
        found = Interval(*map(float, record.volatile["ratio"]))  # type: ignore[arg-type]
        sense, limit = next(aim for start, aim in LIMITS.items() if record.attack.startswith(start))
        met = found.value <= limit if sense == "at most" else found.value >= limit
        yield f"| {record.attack} | {net} | {found} | {sense} {limit:g} | {'met' if met else 'missed'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    records = read(parser.parse_args().results)
    found = rows(records)
    lenet = [*table(found), "", *map(str, targets(found)), *autoattack(records)]
    print("\n".join([*lenet, "", *table(rows(records, CIFAR)), "", *costs(records)]))


if __name__ == "__main__":
    main()
