"""Claim: low-rank nets lose robustness, and well-conditioned, orthonormal factors give it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from study import Missing, Notes, Question, Scale, cell, cells, percent, plural, table
from trained_rows import difference, flags, mean, robust, spread, word
from trainings import Trainings
from ways import DENSE, Way, shares

from art_lowrank.statistics import paired_difference

TITLE = "Low-rank nets, orthonormal factors, conditioning"
CLAIM = (
    "Plain low-rank training makes nets less robust; approximately orthonormal, well-conditioned factors recover the "
    "robustness of the dense net or more (arXiv 2306.01485, 2505.08022)."
)


VGG_RATE = 0.05  # of all ways alike: the question there is masking, not who is ahead


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
    def middle(self) -> float:
        """The radius that nets are tuned for and compared at."""
        return self.radii[(len(self.radii) - 1) // 2]

    @property
    def ways(self) -> tuple[Way, ...]:
        low = [way for keep in self.keeps for way in shares(keep)]
        if self.few:
            return (DENSE, *(way for way in low if way.name.split(",")[0] in ("vanilla U s V", "CondLR tau 0.1")))
        return (DENSE, *low, Way("dense, nuclear 0.03 + l1 0.001", "nuclear", 1.0, {"nuclear": 3e-2, "sparse": 1e-3}))


def known_rate(way: str) -> float:
    """What integration/training found for LeNet5, of six rates; a variant it lacks has that of its nearest kin."""
    if way.startswith("vanilla"):
        return 0.025
    return 0.04 if way == "ours, cond 1.5, keep 0.07" else 0.063


ARENAS = {
    "assets": (
        Arena("lenet5", (0.2, 0.07), "inf", (0.1, 0.15), (1.0, 1.5, 2.0, 3.0)),
        Arena("vgg", (0.5,), "2", (0.1, 0.2, 0.3), (0.1, 0.13, 0.16, 0.2, 0.23, 0.26, 0.3), few=True),
    ),
    "digits": (Arena("digits", (0.5,), "2", (0.25, 0.5), (0.25, 0.5, 1.0)),),
}


def trainings(scale: Scale, arena: Arena) -> Trainings:
    middle = arena.middle
    radii = " ".join(f"{eps:g}" for eps in arena.radii)
    published = " ".join(f"{eps:g}" for eps in arena.published)
    ways = {way.name: way for way in arena.ways}
    rates = {"lenet5": known_rate, "vgg": lambda _: VGG_RATE}.get(arena.course)
    judge = f"{arena.norm} {radii}"
    return Trainings(scale, arena.course, ways, arena.norm, middle, rates, judge=judge, masking=published)


def questions(scale: Scale) -> Iterator[Question]:
    for arena in ARENAS[scale.where]:
        yield from trainings(scale, arena).all()


def sentence(notes: Notes, scale: Scale) -> str:
    """The first arena: how many ways lose, and whether any bound on cond(W) is ahead of plain low rank."""
    arena = ARENAS[scale.where][0]
    of = trainings(scale, arena)
    path, told = f"judge/{arena.middle:g}", []
    for keep in arena.keeps:
        plain = of.of(f"vanilla U s V, keep {keep:g}")
        lost = difference(notes, plain, of.of("dense"), path).points(1)

        def gain(name: str, keep: float = keep, plain: list[Question] = plain) -> str:
            return f"{name} {difference(notes, of.of(f'{name}, keep {keep:g}'), plain, path).points(1)}"

        names = ("CondLR tau 0.1", "CondLR tau 0.5", "CondLR mean", "ours, cond 1.5", "RobustDLRT")
        gains = ", ".join(text for text in cells(gain, names) if text != "-")
        told.append(f"at {keep:.0%} of the parameters plain low rank {lost} against dense; against plain: {gains}")
    base = of.of("dense")
    return f"{of.course}, APGD: {'; '.join(told)} (n = {base[0].n}, {plural(len(base), 'seed')})."


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """Against the dense net at the middle radius; then the plateau."""
    found = [(arena, trainings(scale, arena)) for arena in ARENAS[scale.where]]
    return [line for arena, of in found for line in (compared(notes, of, arena), plateau(notes, of, arena))]


def compared(notes: Notes, of: Trainings, arena: Arena) -> str:
    """Robust accuracy less that of the dense net, every way."""
    base = of.of("dense")

    def one(name: str) -> str:
        gap = difference(notes, of.of(name), base, f"judge/{arena.middle:g}")
        return f"{name} {gap.points(1)} ({word(gap)})"

    names = list(of.ways)[1:]
    lost = [f"{name} {'diverged' if all(map(notes.has, of.of(name))) else 'not measured'}" for name in names]
    named = [text if text != "-" else other for text, other in zip(cells(one, names), lost, strict=True)]
    ball = "l_inf" if arena.norm == "inf" else "l2"
    return (
        f"{of.course}, {ball} {arena.middle:g}, n = {notes.record(base[0]).n}, {plural(len(base), 'seed')}, "
        f"robust accuracy less that of the dense net: {'; '.join(named)}."
    )


def plateau(notes: Notes, of: Trainings, arena: Arena) -> str:
    """What rescaling the logits breaks that the published evaluation left, at its largest radius."""
    at = f"masking/{arena.published[-1]:g}"

    def above(asked: list[Question], other: str) -> str:
        return paired_difference(flags(notes, asked, f"{at}/ce"), flags(notes, asked, f"{at}/{other}")).points(1)

    def gap(name: str) -> str:
        asked = of.of(name)
        masks = [notes.value(one, "masking") for one in asked]
        zero, seen = (sum(int(mask[key]) for mask in masks) for key in ("zero", "n"))
        return (
            f"{name} {above(asked, 'rescaled')} and {above(asked, 'margin')} ({zero} of {seen} gradients exactly zero)"
        )

    told = [text for text in cells(gap, of.ways) if text != "-"]
    return (
        f"{flattest(notes, of, arena)} {of.course}, gradient masking at l2 {arena.published[-1]:g}: by so much the "
        f"published evaluation (PGD-10 on cross-entropy) is above the same on rescaled logits, and above the margin "
        f"with this package's schedule: {'; '.join(told)}."
    )


def flattest(notes: Notes, of: Trainings, arena: Arena) -> str:
    """The published plateau was 56.9 % at l2 0.2 and 54.6 % at 0.3: how little does any net lose here?"""
    far = arena.published[-1]
    near = min(arena.published, key=lambda eps: abs(eps - far * 2 / 3))
    drops = {}
    for name in of.ways:
        with suppress(Missing):
            at = (robust(notes, of.of(name), f"masking/{eps:g}/ce") for eps in (near, far))
            drops[name] = float(np.subtract(*at))
    if not drops:
        return ""
    name, drop = min(drops.items(), key=lambda item: item[1])
    return (
        f"{of.course}, the published plateau (CondLR tau 0.1 on VGG16 loses 2.3 points between l2 0.2 and 0.3): by the "
        f"published evaluation {name} falls least between {near:g} and {far:g}, by {100 * drop:.1f} points; the dense "
        f"net falls by {100 * drops['dense']:.1f}."
    )


def tables(notes: Notes, scale: Scale) -> list[str]:
    found = []
    for arena in ARENAS[scale.where]:
        of = trainings(scale, arena)
        found += strong(notes, of, arena) + published(notes, of, arena)
    return found


def strong(notes: Notes, of: Trainings, arena: Arena) -> list[str]:
    """What the judge says."""

    def row(name: str) -> list[str]:
        asked = of.of(name)
        return [
            name,
            cell(lambda: f"{mean(notes, asked, 'parameters') / 1000:.1f}k"),
            cell(lambda: percent(mean(notes, asked, "clean"))),
            *cells(lambda eps: spread(notes, asked, f"judge/{eps:g}"), arena.radii),
            cell(lambda: f"{max(float(notes.value(one, 'cond')) for one in asked):.3g}"),
            cell(lambda: f"{notes.value(asked[0], 'rate'):g}"),
        ]

    ball = "l_inf" if arena.norm == "inf" else "l2"
    head = [of.course, "stored", "clean", *(f"{ball} {eps:g}" for eps in arena.radii), "largest cond(W)", "rate"]
    told = "APGD-CE + APGD-T, mean over seeds (lowest-highest); cond(W) of the low-rank layers, or of all:"
    return [told, "", *table(head, map(row, of.ways))]


def published(notes: Notes, of: Trainings, arena: Arena) -> list[str]:
    """PGD-10 as the papers run it, beside what shows whether its gradients had vanished."""

    def row(name: str, which: str) -> list[str]:
        asked = of.of(name)
        shares = cells(lambda eps: percent(robust(notes, asked, f"masking/{eps:g}/{which}")), arena.published)
        return [f"{name}, {WHICH[which]}", *shares, cell(lambda: f"{mean(notes, asked, 'masking/median_margin'):.3g}")]

    head = [f"{of.course}, l2", *(f"{eps:g}" for eps in arena.published), "median margin"]
    rows = [row(name, which) for name in of.ways for which in WHICH]
    return ["The published evaluation, and what it misses:", "", *table(head, rows)]


WHICH = {"ce": "PGD-10 cross-entropy", "rescaled": "rescaled logits", "margin": "margin loss"}
