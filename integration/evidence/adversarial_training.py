"""Claim: adversarial training with low-rank PGD gives nets more accurate and more robust than training with PGD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from study import Notes, Question, Scale, cell, percent, table
from trained_rows import difference, mean, spread
from trainings import KIND as TRAINING
from trainings import Trainings
from ways import Way

TITLE = "Adversarial training with low-rank PGD"
CLAIM = (
    "Adversarial training with LoRa-PGD gives nets that are more accurate and more robust, against full-rank attacks "
    "too (arXiv 2410.12607, later version)."
)
KINDS = (TRAINING,)
PGD = "PGD"


@dataclass(frozen=True)
class Arena:
    """A course, the radius that is trained against and judged at, and a tenth and a half of full rank."""

    course: str
    eps: float
    low: int
    half: int


ARENAS = {
    "assets": (Arena("cnn, l2 2.0", 2.0, 3, 14), Arena("resnet3b, l2 0.5", 0.5, 3, 16)),
    "digits": (Arena("digits, l2 0.5", 0.5, 1, 4),),
}


def trainings(scale: Scale, arena: Arena) -> Trainings:
    """Six ways, five gradients an image for the attack and one for the weights."""

    def way(name: str, against: str, rank: int | str) -> Way:
        return Way(name, against=against, rank=rank, eps=arena.eps)

    ways = [
        way(PGD, "pgd", "full"),
        way(f"LoRa-PGD r={arena.low}", "paper", arena.low),
        way(f"LoRa-PGD r={arena.half}", "paper", arena.half),
        way(f"power r={arena.low}", "power", arena.low),
        way(f"power r={arena.half}", "power", arena.half),
        way("power, full rank", "power", "full"),
    ]
    judge = f"2 {arena.eps / 2:g} {arena.eps:g}"
    return Trainings(
        scale, arena.course, {one.name: one for one in ways}, "2", arena.eps, judge=judge, low_rank_judge=arena.eps
    )


def questions(scale: Scale) -> Iterator[Question]:
    for arena in ARENAS[scale.where]:
        yield from trainings(scale, arena).all()


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """Each way against PGD, by the strong attack."""
    lines = []
    for arena in ARENAS[scale.where]:
        found = trainings(scale, arena)
        base, path = found.of(PGD), f"judge/{arena.eps:g}"
        told = []
        for name in list(found.ways)[1:]:
            one = difference(notes, found.of(name), base, path)
            clean = 100 * (mean(notes, found.of(name), "clean") - mean(notes, base, "clean"))
            word = "**more robust**" if one.low > 0 else "**less robust**" if one.high < 0 else "no difference shown"
            told.append(f"{name} {one.points(1)}, clean {clean:+.1f}: {word}")
        n, seeds = base[0].n, len(scale.seeds)
        lines.append(
            f"{arena.course}, n = {n}, {seeds} seed{'s' * (seeds > 1)}, against training with PGD: {'; '.join(told)}."
        )
    return lines


def tables(notes: Notes, scale: Scale) -> list[str]:
    found = []
    for arena in ARENAS[scale.where]:
        of = trainings(scale, arena)
        near, far = f"judge/{arena.eps / 2:g}", f"judge/{arena.eps:g}"

        def row(name: str, of: Trainings = of, near: str = near, far: str = far) -> list[str]:
            asked = of.of(name)
            return [
                name,
                cell(lambda: percent(mean(notes, asked, "clean"))),
                cell(lambda: spread(notes, asked, near)),
                cell(lambda: spread(notes, asked, far)),
                cell(lambda: spread(notes, asked, "low_rank_judge/holds")),
                cell(lambda: f"{notes.value(asked[0], 'rate'):g}"),
                cell(lambda: f"{seconds(notes, asked):.0f}"),
            ]

        strong = "APGD-CE + APGD-T"
        head = [arena.course, "clean", f"{strong} {arena.eps / 2:g}", f"{strong} {arena.eps:g}",
                f"power, a tenth of full rank, {arena.eps:g}", "rate", "s"]  # fmt: skip
        found += table(head, map(row, of.ways))
    return found


def seconds(notes: Notes, asked: list[Question]) -> float:
    """Process time of a training, the mean over seeds."""
    spent = [float(str(notes.record(one).volatile["train_seconds"])) for one in asked]
    return sum(spent) / len(spent)
