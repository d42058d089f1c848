"""Claim: LoRa-PGD matches PGD, sometimes beats it, and comes near AutoAttack at a fraction of its cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strength_cells import AUTOATTACK, IMAGES, KIND, PAPER, PGD, POWER
from study import Flags, Missing, Notes, Question, Scale, cell, percent, table
from worlds import Subject

from art_lowrank.record import JSON
from art_lowrank.statistics import Interval, mean_paired_difference

TITLE = "LoRa-PGD's table"
CLAIM = (
    "Low-rank PGD is comparable to PGD and sometimes better, and comes near AutoAttack at a far lower cost "
    "(arXiv 2410.12607)."
)
KINDS = (KIND,)
STEPS = (10, 20, 50, 100)
STARTS = ("lora", "warm-up", "transfer")
APGD = ("AutoAttack APGD-CE", "AutoAttack APGD-DLR")


class Table:
    """The cells of one net."""

    def __init__(self, scale: Scale, name: str) -> None:
        self.subject: Subject = scale.world.subjects[name]
        self.n = scale.images(name)
        self.steps = STEPS[:2] if scale.small else STEPS

    def ask(self, attack: str, n: int = 0, seed: int | None = 0, **settings: JSON) -> Question:
        n = n or self.n
        settings = {"eps": self.subject.eps, **settings}
        return Question(KIND, self.subject.name, self.subject.data(n), attack, n, settings, seed)

    def clean(self) -> Question:
        return self.ask("clean", seed=None)

    def pgd(self, steps: int) -> Question:
        return self.ask(PGD, seed=None, steps=steps)

    def paper(self, rank: int, steps: int, init: str = "lora", **more: JSON) -> Question:
        return self.ask(PAPER, rank=rank, steps=steps, init=init, **more)

    def matched(self, rank: int, steps: int) -> Question:
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
            yield from (self.paper(rank, steps, init) for init in STARTS)
            yield self.matched(rank, steps)
        yield self.power("full", steps)


def questions(scale: Scale) -> Iterator[Question]:
    """The cheap ones of every net first."""
    tables = [Table(scale, name) for name in scale.world.attacked]
    for one in tables:
        yield one.clean()
    for steps in tables[0].steps:
        for one in tables:
            yield from one.at(steps)
    yield from (one.autoattack() for one in tables)


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """What held, with paired differences averaged over the nets."""
    tables = [Table(scale, name) for name in scale.world.attacked]
    most = len(tables[0].subject.ranks) - 1

    def mean(ours: Sequence[Question], others: Sequence[Question]) -> str:
        return notes.mean_difference(list(zip(ours, others, strict=True))).points(1)

    def against_pgd(place: int) -> str:
        return mean([t.paper(t.subject.ranks[place], 10) for t in tables], [t.pgd(10) for t in tables])

    def of_power(place: int) -> str:
        return mean([t.power(t.subject.ranks[place], 10) for t in tables], [t.pgd(10) for t in tables])

    n = " + ".join(str(one.n) for one in tables)
    lines = [
        f"**Not held** as it stands, at 10 gradients (n = {n} images of {len(tables)} nets): LoRa-PGD as published is "
        f"weaker than PGD at a tenth of full rank ({against_pgd(0)}) and at a half ({against_pgd(most)}).",
        f"**Holds for the search of this package**: `power` against the same PGD, {of_power(0)} at a tenth and "
        f"{of_power(most)} at a half.",
    ]
    return lines + [near_autoattack(notes, tables)]


def near_autoattack(notes: Notes, tables: Sequence[Table]) -> str:
    """How far the low-rank attacks stay behind AutoAttack, on its images."""
    n = " + ".join(str(min(IMAGES, one.n)) for one in tables)

    def gap(ask: str) -> str:
        pairs = []
        for one in tables:
            rank = one.subject.ranks[-1]
            ours = {"paper": one.paper(rank, 10), "power": one.power(rank, 10), "pgd": one.pgd(10)}[ask]
            auto = notes.holds(one.autoattack())
            pairs.append((notes.holds(ours, n=len(auto)), auto))
        return mean_paired_difference(pairs).points(1)

    return (
        f"Behind AutoAttack standard (n = {n}), with 10 gradients: PGD {gap('pgd')}, `paper` at half rank "
        f"{gap('paper')}, `power` at half rank {gap('power')}."
    )


def tables(notes: Notes, scale: Scale) -> list[str]:
    """A table a net; then the same at equal time, and what is stored."""
    found = []
    for name in scale.world.attacked:
        found += of_net(notes, Table(scale, name))
    return found + stored(notes, scale)


def of_net(notes: Notes, one: Table) -> list[str]:
    """Robust accuracy by attack and gradients, and seconds of process time for a thousand images."""

    def row(name: str, ask: Sequence[Question], field: str = "holds") -> list[str]:
        accuracy = [cell(lambda q=q: percent(notes.accuracy(q, field))) for q in ask]  # type: ignore[misc]
        seconds = [cell(lambda q=q: f"{time(notes, q):.1f}") for q in ask]  # type: ignore[misc]
        return [name, *accuracy, *(seconds if field == "holds" else ["-"] * len(ask))]

    rows = [row("PGD, as the authors run it", [one.pgd(steps) for steps in one.steps])]
    rows += [
        row(attack.removeprefix("AutoAttack "), [one.apgd(attack, steps) for steps in one.steps]) for attack in APGD
    ]
    for rank in one.subject.ranks:
        for init in STARTS:
            rows.append(row(f"paper r={rank}, {init}", [one.paper(rank, steps, init) for steps in one.steps]))
        rows.append(row(f"paper r={rank}, nuclear norm of PGD", [one.matched(rank, steps) for steps in one.steps]))
        for field in ("truncated", "rescaled"):
            asked = [one.pgd(steps) for steps in one.steps]
            rows.append(row(f"PGD, {field} to r={rank}", asked, f"{field} {rank}"))
        rows.append(row(f"power r={rank}", [one.power(rank, steps) for steps in one.steps]))
    rows.append(row("power, full rank", [one.power("full", steps) for steps in one.steps]))
    clean, auto = (cell(lambda q=q: notes.accuracy(q).percent()) for q in (one.clean(), one.autoattack()))  # type: ignore[misc]
    head = ["attack", *(f"N={steps}" for steps in one.steps), *(f"s, N={steps}" for steps in one.steps)]
    told = f"{one.subject.short}, eps {one.subject.eps:g}, n = {one.n}: clean {clean}; AutoAttack standard {auto} "
    return [f"{told}(n = {min(IMAGES, one.n)}).", "", *table(head, rows)]


def time(notes: Notes, question: Question) -> float:
    """Seconds of process time for a thousand images."""
    spent: JSON = notes.record(question).volatile["process_seconds"]
    return 1000 * float(str(spent)) / question.n


def stored(notes: Notes, scale: Scale) -> list[str]:
    """Bytes of a perturbation."""
    one = Table(scale, scale.world.attacked[-1])
    ranks: list[int | str] = [*one.subject.ranks, "full"]
    cells = [cell(lambda r=r: str(notes.value(one.power(r, 10), "stored_bytes"))) for r in ranks]  # type: ignore[misc]
    head = ["rank", *map(str, ranks)]
    return ["Bytes an image's perturbation takes in float32:", "", *table(head, [["bytes", *cells]])]


def equal_time(notes: Notes, one: Table) -> list[list[str]]:
    """Within the time that PGD takes with N gradients: the strongest of every attack's runs."""

    def best(budget: float, asks: Sequence[Question]) -> str:
        able = [ask for ask in asks if notes.has(ask) and time(notes, ask) <= 1.05 * budget]
        return min((percent(notes.accuracy(ask)) for ask in able), key=float, default="-")

    rank = one.subject.ranks[2 if len(one.subject.ranks) > 2 else -1]
    rows = []
    for steps in one.steps:
        try:
            budget = time(notes, one.pgd(steps))
        except Missing:
            continue
        rows.append([
            f"{one.subject.short}, PGD N={steps}", percent(notes.accuracy(one.pgd(steps))),
            best(budget, [one.paper(rank, s) for s in one.steps]),
            best(budget, [one.power(rank, s) for s in one.steps]),
            *(best(budget, [one.apgd(attack, s) for s in one.steps]) for attack in APGD),
        ])  # fmt: skip
    return rows


def curves(notes: Notes, one: Table, attack: str) -> list[Interval]:
    """Robust accuracy over rank with ten gradients."""
    ask = one.paper if attack == "paper" else one.power
    return [notes.accuracy(ask(rank, 10)) for rank in one.subject.ranks]


def flags(notes: Notes, question: Question) -> Flags:
    return notes.holds(question)
