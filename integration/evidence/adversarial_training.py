"""Claim: adversarial training with low-rank PGD gives nets more accurate and more robust than training with PGD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from study import Notes, Question, Scale, cell, cells, percent, plural, table
from trained_rows import difference, mean, spread, word
from trainings import Trainings
from ways import Way

TITLE = "Adversarial training with low-rank PGD"
CLAIM = (
    "Adversarial training with LoRa-PGD gives nets that are more accurate and more robust, against full-rank attacks "
    "too (arXiv 2410.12607, later version)."
)
PGD = "PGD"


@dataclass(frozen=True)
class Arena:
    """A course, the radius that is trained against and judged at, a tenth and a half of full rank, and the rate.

    The rate is PGD's best of five in integration/warm_start, where robust accuracy hardly depends on it.

    `few` leaves out the two ways that cost most time and say least.
    """

    course: str
    eps: float
    low: int
    half: int
    rate: float
    few: bool = False


ARENAS = {
    "assets": (Arena("cnn, l2 2.0", 2.0, 3, 14, 0.016), Arena("resnet3b, l2 0.5", 0.5, 3, 16, 0.02, few=True)),
    "digits": (Arena("digits, l2 0.5", 0.5, 1, 4, 0.006),),
}


def trainings(scale: Scale, arena: Arena) -> Trainings:
    """Up to six ways, five gradients an image for the attack and one for the weights."""

    def way(name: str, against: str, rank: int | str) -> Way:
        return Way(name, against=against, rank=rank, eps=arena.eps)

    ways = [
        way(PGD, "pgd", "full"),
        way(f"LoRa-PGD r={arena.low}", "paper", arena.low),
        way(f"LoRa-PGD r={arena.half}", "paper", arena.half),
        way(f"power r={arena.low}", "power", arena.low),
    ]
    if not arena.few:
        ways += [way(f"power r={arena.half}", "power", arena.half), way("power, full rank", "power", "full")]
    judge = f"2 {arena.eps / 2:g} {arena.eps:g}"
    named = {one.name: one for one in ways}
    eps, rates = arena.eps, lambda _: arena.rate
    return Trainings(scale, arena.course, named, "2", eps, rates, judge=judge, low_rank_judge=eps)


def questions(scale: Scale) -> Iterator[Question]:
    for arena in ARENAS[scale.where]:
        yield from trainings(scale, arena).all()


def sentence(notes: Notes, scale: Scale) -> str:
    """Ranks of a half, as the authors train, and whether any low-rank way is ahead of PGD."""
    told = []
    for arena in ARENAS[scale.where]:
        of = trainings(scale, arena)
        base, path = of.of(PGD), f"judge/{arena.eps:g}"
        parts = []
        for name in (f"LoRa-PGD r={arena.low}", f"LoRa-PGD r={arena.half}", f"power r={arena.low}"):
            one = difference(notes, of.of(name), base, path)
            parts.append(f"{name} {one.points(1)} ({word(one)})")
        told.append(f"{of.course}: {', '.join(parts)}; n = {base[0].n}, {plural(len(base), 'seed')}")
    return f"Robust accuracy less that of training with PGD, 5 gradients each. {'. '.join(told)}."


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """Each way against PGD, by the strong attack."""
    return [of_arena(notes, trainings(scale, arena), arena) for arena in ARENAS[scale.where]]


def of_arena(notes: Notes, of: Trainings, arena: Arena) -> str:
    base = of.of(PGD)

    def against(name: str) -> str:
        one = difference(notes, of.of(name), base, f"judge/{arena.eps:g}")
        clean = 100 * (mean(notes, of.of(name), "clean") - mean(notes, base, "clean"))
        return f"{name} {one.points(1)}, clean {clean:+.1f} ({word(one)})"

    told = "; ".join(cells(against, list(of.ways)[1:]))
    n = f"n = {notes.record(base[0]).n}, {plural(len(base), 'seed')}"
    return f"{of.course}, {n}, robust accuracy at {arena.eps:g} less that of training with PGD: {told}."


def tables(notes: Notes, scale: Scale) -> list[str]:
    """Accuracy by clean images, a strong full-rank attack at two radii, and the low-rank search."""
    return [line for arena in ARENAS[scale.where] for line in table_of(notes, trainings(scale, arena), arena)]


def table_of(notes: Notes, of: Trainings, arena: Arena) -> list[str]:
    radii = (arena.eps / 2, arena.eps)

    def row(name: str) -> list[str]:
        asked = of.of(name)
        return [
            name,
            cell(lambda: percent(mean(notes, asked, "clean"))),
            *cells(lambda eps: spread(notes, asked, f"judge/{eps:g}"), radii),
            cell(lambda: spread(notes, asked, "low_rank_judge/holds")),
            cell(lambda: f"{notes.value(asked[0], 'rate'):g}"),
            cell(lambda: f"{seconds(notes, asked):.0f}"),
        ]

    head = [of.course, "clean", *(f"APGD-CE + APGD-T, {eps:g}" for eps in radii)]
    return table([*head, f"power r={arena.low}, {arena.eps:g}", "rate", "s"], map(row, of.ways))


def seconds(notes: Notes, asked: list[Question]) -> float:
    """Process time of a training, the mean over seeds."""
    spent = [float(str(notes.record(one).volatile["train_seconds"])) for one in asked]
    return sum(spent) / len(spent)
