"""Claim: low-rank nets lose robustness, and well-conditioned, orthonormal factors give it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from study import Notes, Question, Scale, cell, percent, table
from trained_rows import difference, flags, mean, robust, spread
from trainings import KIND as TRAINING
from trainings import Trainings
from ways import DENSE, Way, low_rank, shares

from art_lowrank.statistics import paired_difference

TITLE = "Low-rank nets, orthonormal factors, conditioning"
CLAIM = (
    "Plain low-rank training makes nets less robust; approximately orthonormal, well-conditioned factors recover the "
    "robustness of the dense net or more (arXiv 2306.01485, 2505.08022)."
)
KINDS = (TRAINING,)


@dataclass(frozen=True)
class Arena:
    """A course, what takes part, and at which radii: of the strong judge, and of the published evaluation."""

    course: str
    keeps: tuple[float, ...]
    norm: str
    radii: tuple[float, ...]
    published: tuple[float, ...]
    few: bool = False  # only what the plateau was published for

    @property
    def ways(self) -> tuple[Way, ...]:
        low = [way for keep in self.keeps for way in shares(keep)]
        if self.few:
            return (DENSE, *(way for way in low if way.name.split(",")[0] in ("vanilla U s V", "CondLR tau 0.1")))
        return (DENSE, *low, Way("dense, nuclear 0.03 + l1 0.001", "nuclear", 1.0, {"nuclear": 3e-2, "sparse": 1e-3}))


ARENAS = {
    "assets": (
        Arena("lenet5", (0.2, 0.07), "inf", (0.05, 0.1, 0.15), (1.0, 1.5, 2.0, 2.5, 3.0)),
        Arena("vgg", (0.5,), "2", (0.1, 0.2, 0.3), (0.1, 0.13, 0.16, 0.2, 0.23, 0.26, 0.3), few=True),
    ),
    "digits": (Arena("digits", (0.5,), "2", (0.25, 0.5), (0.25, 0.5, 1.0)),),
}


def trainings(scale: Scale, arena: Arena) -> Trainings:
    middle = arena.radii[len(arena.radii) // 2]
    radii = " ".join(f"{eps:g}" for eps in arena.radii)
    published = " ".join(f"{eps:g}" for eps in arena.published)
    ways = {way.name: way for way in arena.ways}
    return Trainings(
        scale, arena.course, ways, arena.norm, middle, judge=f"{arena.norm} {radii}", masking=published
    )


def questions(scale: Scale) -> Iterator[Question]:
    for arena in ARENAS[scale.where]:
        yield from trainings(scale, arena).all()


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """Against the dense net at the middle radius; then the plateau."""
    lines = []
    for arena in ARENAS[scale.where]:
        of = trainings(scale, arena)
        middle = f"judge/{arena.radii[len(arena.radii) // 2]:g}"
        told = []
        for name in list(of.ways)[1:]:
            one = cell(lambda name=name: difference(notes, of.of(name), of.of("dense"), middle).points(1))  # type: ignore[misc]
            told.append(f"{name} {'diverged' if one == '-' else one}")
        n, seeds = of.of("dense")[0].n, len(scale.seeds)
        lines.append(
            f"{arena.course}, {middle.removeprefix('judge/')} ({'l_inf' if arena.norm == 'inf' else 'l2'}), n = {n}, "
            f"{seeds} seed{'s' * (seeds > 1)}, robust accuracy less that of the dense net: {'; '.join(told)}."
        )
        lines += plateau(notes, of, arena)
    return lines


def plateau(notes: Notes, of: Trainings, arena: Arena) -> list[str]:
    """What rescaling the logits breaks that the published evaluation left, at its largest radius."""
    largest = f"{arena.published[-1]:g}"
    told = []
    for name in of.ways:
        def gap(name: str = name) -> str:
            asked = of.of(name)
            one = paired_difference(
                flags(notes, asked, f"masking/{largest}/ce"), flags(notes, asked, f"masking/{largest}/rescaled")
            )
            zero = int(np.sum([int(value["zero"]) for value in masks(notes, asked)]))
            seen = sum(int(str(value["n"])) for value in masks(notes, asked))
            return f"{name} {one.points(1)} ({zero} of {seen} gradients exactly zero)"

        told.append(cell(gap))
    told = [text for text in told if text != "-"]
    return [
        f"{arena.course}, gradient masking at l2 {largest}: robust accuracy that the published evaluation (PGD-10 on "
        f"cross-entropy) reports too high, against the same on rescaled logits: {'; '.join(told)}."
    ]


def masks(notes: Notes, asked: list[Question]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [notes.record(one).values["masking"] for one in asked]  # type: ignore[misc]
    return found


def tables(notes: Notes, scale: Scale) -> list[str]:
    found = []
    for arena in ARENAS[scale.where]:
        of = trainings(scale, arena)
        found += strong(notes, of, arena) + published(notes, of, arena)
    return found


def strong(notes: Notes, of: Trainings, arena: Arena) -> list[str]:
    def row(name: str) -> list[str]:
        asked = of.of(name)
        return [
            name,
            cell(lambda: f"{mean(notes, asked, 'parameters') / 1000:.1f}k"),
            cell(lambda: percent(mean(notes, asked, "clean"))),
            *(cell(lambda eps=eps: spread(notes, asked, f"judge/{eps:g}")) for eps in arena.radii),  # type: ignore[misc]
            cell(lambda: f"{max(float(notes.value(one, 'cond')) for one in asked):.3g}"),
            cell(lambda: f"{notes.value(asked[0], 'rate'):g}"),
        ]

    ball = "l_inf" if arena.norm == "inf" else "l2"
    head = [arena.course, "stored", "clean", *(f"{ball} {eps:g}" for eps in arena.radii), "largest cond(W)", "rate"]
    return ["APGD-CE + APGD-T, mean over seeds (lowest-highest):", "", *table(head, map(row, of.ways))]


def published(notes: Notes, of: Trainings, arena: Arena) -> list[str]:
    def row(name: str, which: str) -> list[str]:
        asked = of.of(name)
        paths = [f"masking/{eps:g}/{which}" for eps in arena.published]
        cells = [cell(lambda path=path: percent(robust(notes, asked, path))) for path in paths]  # type: ignore[misc]
        margin = cell(lambda: f"{mean(notes, asked, 'masking/median_margin'):.3g}")
        return [f"{name}, {WHICH[which]}", *cells, margin]

    head = [f"{arena.course}, l2", *(f"{eps:g}" for eps in arena.published), "median margin"]
    lines = ["The published evaluation, and what it misses:", ""]
    return lines + table(head, [row(name, which) for name in of.ways for which in WHICH])


WHICH = {"ce": "PGD-10 cross-entropy", "rescaled": "rescaled logits", "margin": "margin loss"}
__all__ = ["low_rank"]
