"""The promises about strength, each judged from per-image outcomes. Differences are paired; 0.01 is one point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from art_lowrank.statistics import Interval, mean_paired_difference, paired_difference

Robust: TypeAlias = npt.NDArray[np.float64]  # (seeds, n): 1 where the net stayed right
Row: TypeAlias = Mapping[str, Robust]  # of one attack, by net
Rows: TypeAlias = Mapping[tuple[float, str], Row]  # by radius and label


class Verdict(NamedTuple):
    target: str
    differences: Mapping[str, Interval]  # by net, ours minus the other: negative where ours is stronger
    summary: str
    met: bool | None  # None: not measured on every net
    remarks: Sequence[str] = ()


Judge: TypeAlias = Callable[[Rows, Sequence[str]], Verdict]


def verdicts(rows: Rows, nets: Sequence[str]) -> list[Verdict]:
    """All targets, on the given nets; one that lacks a record is not left out but shown as not measured."""
    dense = [f"AutoAttack APGD-{loss} N=100" for loss in ("CE", "DLR")]
    judges: dict[str, Judge] = {
        "rank 3, 10 gradients: on average at least 3 points below the published attack": _below("r=3", 0.03),
        "rank 10, 10 gradients: on average at least 4 points below the published attack": _below("r=10", 0.04),
        "rank 3: 4 gradients on average no weaker than the published attack with 100": _few(4, 0.0),
        "rank 3: 3 gradients on average within 0.5 point of the published attack with 100": _few(3, 0.005),
        "rank 10, 10 gradients: in the median over nets no weaker than the better of APGD-CE and -DLR with 100, "
        "within 1.5 points on each": _dense(0.5, 10, dense, 0.015),
        "eps 1.0, rank 10, 20 gradients: in the median over nets no weaker than APGD-CE with 50, "
        "within 1 point on each": _dense(1.0, 20, ["AutoAttack APGD-CE N=50"], 0.01),
    }
    return [_judged(target, judge, rows, nets) for target, judge in judges.items()]


def _judged(target: str, judge: Judge, rows: Rows, nets: Sequence[str]) -> Verdict:
    try:
        return judge(rows, nets)._replace(target=target)
    except KeyError as missing:
        return Verdict(target, {}, f"no record of {missing}", None)


def _below(rank: str, points: float) -> Judge:
    def judge(rows: Rows, nets: Sequence[str]) -> Verdict:
        """Every net in our favour, the mean large enough, and its interval well clear of chance."""
        pairs = _pairs(rows, nets, f"lowrank-pgd[power] {rank} N=10", f"lora-pgd[paper] {rank} N=10")
        each, mean = _differences(pairs), mean_paired_difference(list(pairs.values()))
        met = mean.value <= -points and mean.high < -0.015 and all(one.value < 0 for one in each.values())
        return Verdict("", each, f"mean {mean.points(2)}", met)

    return judge


def _few(steps: int, slack: float) -> Judge:
    def judge(rows: Rows, nets: Sequence[str]) -> Verdict:
        pairs = _pairs(rows, nets, f"lowrank-pgd[power] r=3 N={steps}", "lora-pgd[paper] r=3 N=100")
        mean = mean_paired_difference(list(pairs.values()))
        return Verdict("", _differences(pairs), f"mean {mean.points(2)}", mean.value <= slack)

    return judge


def _dense(eps: float, steps: int, rivals: Sequence[str], each_within: float) -> Judge:
    def judge(rows: Rows, nets: Sequence[str]) -> Verdict:
        """Against the stronger rival on each net; where the gap is wide, higher ranks show whether rank is why."""
        best = {net: min(rivals, key=lambda rival: _row(rows, eps, rival)[net].mean()) for net in nets}

        def against(label: str, net: str) -> Interval:
            return paired_difference(_row(rows, eps, label)[net], _row(rows, eps, best[net])[net])

        each = {net: against(f"lowrank-pgd[power] r=10 N={steps}", net) for net in nets}
        middle, widest = median(one.value for one in each.values()), max(one.value for one in each.values())
        remarks = [
            f"{net}: {label.removeprefix('lowrank-pgd[power] ')} {against(label, net).points(2)}"
            for net in nets
            if each[net].value > each_within
            for label in (f"lowrank-pgd[power] r={rank} N=20" for rank in (16, "full"))
            if net in rows.get((eps, label), {})
        ]
        summary = f"median {100 * middle:+.2f} points, largest {100 * widest:+.2f}"
        return Verdict("", each, summary, middle <= 0 and widest <= each_within, remarks)

    return judge


def _row(rows: Rows, eps: float, label: str) -> Row:
    return rows[eps, label]


def _pairs(rows: Rows, nets: Sequence[str], ours: str, other: str) -> dict[str, tuple[Robust, Robust]]:
    return {net: (_row(rows, 0.5, ours)[net], _row(rows, 0.5, other)[net]) for net in nets}


def _differences(pairs: Mapping[str, tuple[Robust, Robust]]) -> dict[str, Interval]:
    return {net: paired_difference(*pair) for net, pair in pairs.items()}
