"""Claim: LoRa-PGD matches PGD, sometimes beats it, and comes near AutoAttack at a fraction of its cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import memory
from strength_cells import AUTOATTACK, IMAGES, KIND, PAPER, PGD, POWER
from study import Notes, Question, Scale, cells, percent, table
from worlds import Subject

from art_lowrank.record import JSON
from art_lowrank.statistics import Interval, mean_paired_difference

TITLE = "LoRa-PGD's table"
CLAIM = (
    "Low-rank PGD is comparable to PGD and sometimes better, and comes near AutoAttack at a far lower cost "
    "(arXiv 2410.12607)."
)
STEPS = (10, 20, 50, 100)
STARTS = ("lora", "warm-up", "transfer")
APGD = ("AutoAttack APGD-CE", "AutoAttack APGD-DLR")
TIMED = 1.2  # a run within this many times the budget counts as within it: times are that noisy here


class Table:
    """The cells of one net."""

    def __init__(self, scale: Scale, name: str) -> None:
        self.subject: Subject = scale.world.subjects[name]
        self.n = scale.images(name)
        self.steps = STEPS[:2] if scale.small else STEPS
        self.low, self.half = self.subject.ranks[0], self.subject.ranks[-1]
        self.middle = self.subject.ranks[min(2, len(self.subject.ranks) - 1)]

    def ask(self, attack: str, n: int = 0, seed: int | None = 0, **settings: JSON) -> Question:
        n = n or self.n
        return Question(
            KIND, self.subject.name, self.subject.data(n), attack, n, {"eps": self.subject.eps, **settings}, seed
        )

    def clean(self) -> Question:
        return self.ask("clean", seed=None)

    def pgd(self, steps: int) -> Question:
        return self.ask(PGD, seed=None, steps=steps)

    def paper(self, rank: int, steps: int, init: str = "lora", **more: JSON) -> Question:
        return self.ask(PAPER, rank=rank, steps=steps, init=init, **more)

    def matched(self, rank: int, steps: int) -> Question:
        """With the radius that gives PGD's mean nuclear norm."""
        return self.paper(rank, steps, budget="nuclear")

    def power(self, rank: int | str, steps: int) -> Question:
        return self.ask(POWER, rank=rank, steps=steps)

    def apgd(self, attack: str, steps: int) -> Question:
        return self.ask(attack, steps=steps)

    def autoattack(self) -> Question:
        return self.ask(AUTOATTACK, n=min(IMAGES, self.n))

    def at(self, steps: int) -> Iterator[Question]:
        """Everything with so many gradients; what is matched comes after what it is matched to."""
        yield self.pgd(steps)
        yield from (self.apgd(attack, steps) for attack in APGD)
        for rank in self.subject.ranks:
            yield self.power(rank, steps)
            yield self.paper(rank, steps)
            if steps != self.steps[-1]:  # half of all the time, for what shows with fewer
                yield from (self.paper(rank, steps, init) for init in STARTS[1:])
                yield self.matched(rank, steps)
        yield self.power("full", steps)

    def memory(self) -> dict[str, Question]:
        """Peaks on a hundred images, by the names of a table."""
        n = min(self.n, 100)  # 40 of ImageNet

        def ask(attack: str, **settings: JSON) -> Question:
            settings = {"eps": self.subject.eps, "steps": 3, **settings}
            return Question(memory.KIND, self.subject.name, self.subject.data(n), attack, n, settings)

        return {
            memory.ONE_GRADIENT: ask(memory.ONE_GRADIENT),
            "PGD": ask(PGD),
            "APGD-CE": ask(APGD[0]),
            "paper, a tenth of full rank": ask(PAPER, rank=self.low),
            "paper, a half": ask(PAPER, rank=self.half),
            "power, a tenth of full rank": ask(POWER, rank=self.low),
            "power, a half": ask(POWER, rank=self.half),
        }


def weighed(scale: Scale) -> list[Table]:
    """The nets whose memory is measured: the first of the table, and the one of the largest images."""
    largest = max(scale.world.subjects.values(), key=lambda one: (one.side, one.name))
    return [Table(scale, name) for name in dict.fromkeys((scale.world.attacked[0], largest.name))]


def all_tables(scale: Scale) -> list[Table]:
    return [Table(scale, name) for name in scale.world.attacked]


def questions(scale: Scale) -> Iterator[Question]:
    """What takes longest comes last."""
    found = all_tables(scale)
    *some, last = found[0].steps
    for one in found:
        yield one.clean()
        yield from (question for steps in some for question in one.at(steps))
        yield one.autoattack()
    for one in weighed(scale):
        yield from one.memory().values()
    for one in found:
        yield from one.at(last)


def images(found: Sequence[Table]) -> str:
    return f"n = {' + '.join(str(one.n) for one in found)} images of {len(found)} nets"


def sentence(notes: Notes, scale: Scale) -> str:
    """As published and as here, against PGD with ten gradients."""
    found = all_tables(scale)
    pgd = [one.pgd(10) for one in found]

    def against(asked: Sequence[Question]) -> str:
        one = notes.mean_difference(list(zip(asked, pgd, strict=True)))
        return f"{compared(one)} ({one.points(1)})"

    return (
        f"Against PGD, both with 10 gradients: LoRa-PGD as published, a tenth of full rank: "
        f"{against([one.paper(one.low, 10) for one in found])}, a half: "
        f"{against([one.paper(one.half, 10) for one in found])}; the search of this package, a tenth: "
        f"{against([one.power(one.low, 10) for one in found])}, a half: "
        f"{against([one.power(one.half, 10) for one in found])}; {images(found)}, paired."
    )


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """Against PGD and AutoAttack, paired, averaged over the nets."""
    found = all_tables(scale)
    return [
        f"{images(found)}, less PGD with as many gradients (negative: stronger). {beside_pgd(notes, found)}",
        beside_autoattack(notes, found),
        starts(notes, found),
    ]


def beside_pgd(notes: Notes, found: Sequence[Table]) -> str:
    """LoRa-PGD as published and our search, at a tenth and a half of full rank."""
    told = []
    for steps in found[0].steps:
        others = [one.pgd(steps) for one in found]
        if not all(map(notes.has, others)):
            continue

        def against(ours: Sequence[Question], others: Sequence[Question] = others) -> Interval:
            return notes.mean_difference(list(zip(ours, others, strict=True)))

        rows = {
            "`paper` at a tenth of full rank": against([one.paper(one.low, steps) for one in found]),
            "at a half": against([one.paper(one.half, steps) for one in found]),
            "`power` at a tenth": against([one.power(one.low, steps) for one in found]),
            "`power` at a half": against([one.power(one.half, steps) for one in found]),
        }
        parts = (f"{name} {one.points(1)} ({compared(one)})" for name, one in rows.items())
        told.append(f"{steps} gradients: {', '.join(parts)}.")
    return " ".join(told)


def compared(one: Interval) -> str:
    """The claim was "comparable, sometimes better"."""
    return "stronger" if one.high < 0 else "**weaker**" if one.low > 0 else "no difference shown"


def beside_autoattack(notes: Notes, found: Sequence[Table]) -> str:
    """How far attacks with ten gradients stay behind AutoAttack, on its images."""
    autos = {one: notes.holds(one.autoattack()) for one in found}

    def gap(asked: Sequence[Question]) -> str:
        pairs = [(notes.holds(q, n=len(auto)), auto) for q, auto in zip(asked, autos.values(), strict=True)]
        return mean_paired_difference(pairs).points(1)

    told = {
        "PGD": [one.pgd(10) for one in found],
        "`paper` at half rank": [one.paper(one.half, 10) for one in found],
        "`power` at half rank": [one.power(one.half, 10) for one in found],
        "`power` at full rank": [one.power("full", 10) for one in found],
    }
    n = " + ".join(str(len(auto)) for auto in autos.values())
    times = [seconds(notes, one.autoattack()) / seconds(notes, one.power(one.half, 10)) for one in found]
    return (
        f"Behind AutoAttack standard (n = {n}), with 10 gradients: "
        f"{', '.join(f'{name} {gap(asked)}' for name, asked in told.items())}; AutoAttack takes "
        f"{min(times):.0f} to {max(times):.0f} times as long as `power`."
    )


def starts(notes: Notes, found: Sequence[Table]) -> str:
    """What the published starts add over random factors, at ten gradients and a tenth of full rank."""
    base = [one.paper(one.low, 10) for one in found]
    told = []
    for init in STARTS[1:]:
        one = notes.mean_difference(list(zip([t.paper(t.low, 10, init) for t in found], base, strict=True)))
        told.append(f"{init} {one.points(1)} ({compared(one)})")
    return f"The published starts against random factors, 10 gradients, a tenth of full rank: {', '.join(told)}."


def tables(notes: Notes, scale: Scale) -> list[str]:
    """A table a net; then equal time, what is stored, and memory."""
    found = all_tables(scale)
    lines = [line for one in found for line in of_net(notes, one)]
    return [*lines, *equal_time(notes, found), *stored(notes, found[-1]), *peaks(notes, weighed(scale))]


def of_net(notes: Notes, one: Table) -> list[str]:
    """Robust accuracy by attack and gradients, and seconds of process time for a thousand images."""

    def row(name: str, asked: Sequence[Question], field: str = "holds") -> list[str]:
        accuracy = cells(lambda q: percent(notes.accuracy(q, field)), asked)
        times = cells(lambda q: f"{seconds(notes, q):.1f}", asked) if field == "holds" else ["-"] * len(asked)
        return [name, *accuracy, *times]

    pgd = [one.pgd(steps) for steps in one.steps]
    rows = [row("PGD, as the authors run it", pgd)]
    for attack in APGD:
        rows.append(row(attack.removeprefix("AutoAttack "), [one.apgd(attack, steps) for steps in one.steps]))
    for rank in one.subject.ranks:
        for init in STARTS:
            rows.append(row(f"paper r={rank}, {init}", [one.paper(rank, steps, init) for steps in one.steps]))
        rows.append(row(f"paper r={rank}, PGD's nuclear norm", [one.matched(rank, steps) for steps in one.steps]))
        for field in ("truncated", "rescaled"):
            rows.append(row(f"PGD, {field} to r={rank}", pgd, f"{field} {rank}"))
        rows.append(row(f"power r={rank}", [one.power(rank, steps) for steps in one.steps]))
    rows.append(row("power, full rank", [one.power("full", steps) for steps in one.steps]))
    clean, auto = cells(lambda q: notes.accuracy(q).percent(), (one.clean(), one.autoattack()))
    head = ["attack", *(f"N={steps}" for steps in one.steps), *(f"s, N={steps}" for steps in one.steps)]
    told = f"{one.subject.short}, l2 eps {one.subject.eps:g}, n = {one.n}: clean {clean}; AutoAttack standard {auto}"
    return [f"{told} (n = {min(IMAGES, one.n)}).", "", *table(head, rows)]


def seconds(notes: Notes, question: Question) -> float:
    """Process time for a thousand images."""
    spent: JSON = notes.record(question).volatile["process_seconds"]
    return 1000 * float(str(spent)) / question.n


def equal_time(notes: Notes, found: Sequence[Table]) -> list[str]:
    """Within the time that PGD takes with N gradients: the strongest of every attack's runs."""

    def best(budget: float, asked: Sequence[Question]) -> str:
        able = [ask for ask in asked if notes.has(ask) and seconds(notes, ask) <= TIMED * budget]
        return min((percent(notes.accuracy(ask)) for ask in able), key=float, default="-")

    rows = []
    for one in found:
        for steps in filter(lambda s, one=one: notes.has(one.pgd(s)), one.steps):
            pgd = one.pgd(steps)
            runs = [
                [one.paper(one.middle, s) for s in one.steps],
                [one.power(one.middle, s) for s in one.steps],
                [one.power("full", s) for s in one.steps],
                *([one.apgd(attack, s) for s in one.steps] for attack in APGD),
            ]
            others = (best(seconds(notes, pgd), asked) for asked in runs)
            rows.append([f"{one.subject.short}, PGD N={steps}", percent(notes.accuracy(pgd)), *others])
    head = [
        "time of",
        "PGD",
        "paper, a third of full rank",
        "power, a third",
        "power, full rank",
        "APGD-CE",
        "APGD-DLR",
    ]
    return [f"At equal time (within {TIMED:g} times PGD's, of the runs above):", "", *table(head, rows)]


def stored(notes: Notes, one: Table) -> list[str]:
    """Bytes of a perturbation."""
    ranks: list[int | str] = [*one.subject.ranks, "full"]
    sizes = cells(lambda rank: str(notes.value(one.power(rank, 10), "stored_bytes")), ranks)
    side = f"{one.subject.side} x {one.subject.side}"
    return ["An image's perturbation in float32:", "", *table([f"rank, {side}", *map(str, ranks)], [["bytes", *sizes]])]


def peaks(notes: Notes, found: Sequence[Table]) -> list[str]:
    """Megabytes above what the process held."""

    def megabytes(question: Question) -> str:
        return f"{int(str(notes.record(question).volatile['peak_bytes'])) / 1e6:.0f}"

    names = list(found[0].memory())
    rows = [
        [name, *cells(megabytes, [list(one.memory().values())[i] for one in found])] for i, name in enumerate(names)
    ]
    head = ["peak memory in MB", *(f"{one.subject.short}, {min(one.n, 100)} images" for one in found)]
    return table(head, rows)
