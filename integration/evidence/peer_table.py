"""Peers: the same number of gradients an image through every library, on the same nets and images."""

from __future__ import annotations

from collections.abc import Iterator

import lora_table
from strength_cells import KIND, POWER
from study import Notes, Question, Scale, cell, percent, table

from art_lowrank.record import JSON
from art_lowrank.statistics import mean_paired_difference

TITLE = "The same budget through every library"
CLAIM = "At the same number of gradients an image the low-rank search is as strong as what other libraries offer."
KINDS = (KIND,)
STEPS = (20, 100)
PEERS = ("torchattacks PGDL2", "ART PGD", "foolbox L2PGD", "AutoAttack APGD-CE", "AutoAttack APGD-DLR",
         "adv-lib APGD-CE", "adv-lib APGD-DLR")  # fmt: skip


def ours(scale: Scale, name: str) -> dict[str, dict[str, JSON]]:
    """Ranks of about a tenth and a third, and full rank."""
    ranks = scale.world.subjects[name].ranks
    low, middle = ranks[0], ranks[min(2, len(ranks) - 1)]
    return {f"{POWER} r={rank}": {"rank": rank} for rank in (low, middle, "full")}


def rows_of(scale: Scale, name: str) -> dict[str, list[Question]]:
    """By the name of an attack, its questions by gradients."""
    one = lora_table.Table(scale, name)
    steps = STEPS[:1] if scale.small else STEPS
    found = {attack: [one.ask(attack, steps=s) for s in steps] for attack in PEERS}
    for attack, settings in ours(scale, name).items():
        found[attack] = [one.ask(POWER, steps=s, **settings) for s in steps]
    return found


def questions(scale: Scale) -> Iterator[Question]:
    for name in scale.world.attacked:
        yield lora_table.Table(scale, name).clean()
        for asked in rows_of(scale, name).values():
            yield from asked


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """The full-rank and the middle rank of ours against the strongest peer of each net."""
    names = scale.world.attacked
    steps = STEPS[:1] if scale.small else STEPS
    lines = []
    for place, count in enumerate(steps):
        for index, what in ((1, "at a third of full rank"), (2, "at full rank")):
            pairs, beaten = [], []
            for name in names:
                found = rows_of(scale, name)
                best = min((found[peer][place] for peer in PEERS), key=lambda q: notes.accuracy(q).value)
                mine = list(found.values())[len(PEERS) + index][place]
                pairs.append((notes.holds(mine), notes.holds(best)))
                beaten.append(best.attack)
            difference = mean_paired_difference(pairs)
            lines.append(
                f"{count} gradients, {what}: {difference.points(1)} against the strongest peer of each net "
                f"({', '.join(dict.fromkeys(beaten))}): {word(difference.value, difference.high)}."
            )
    n = " + ".join(str(scale.images(name)) for name in names)
    return [f"n = {n} images of {len(names)} nets; negative where ours is stronger.", *lines]


def word(value: float, high: float) -> str:
    return "**stronger**" if high < 0 else "**as strong**" if value <= 0.01 else "**weaker**"


def tables(notes: Notes, scale: Scale) -> list[str]:
    """Robust accuracy and microseconds of process time a gradient and image."""
    names = scale.world.attacked
    short = [scale.world.subjects[name].short for name in names]
    found = []
    for place, count in enumerate(STEPS[:1] if scale.small else STEPS):
        rows = []
        for attack in [*PEERS, *(f"{POWER}, {what}" for what in ("tenth", "third", "full rank"))]:
            index = list([*PEERS, "tenth", "third", "full"]).index(attack if attack in PEERS else
                                                                    attack.split(", ")[1].split()[0])  # fmt: skip
            asked = [list(rows_of(scale, name).values())[index][place] for name in names]
            shares = [cell(lambda q=q: percent(notes.accuracy(q))) for q in asked]  # type: ignore[misc]
            times = [cell(lambda q=q: f"{1000 * lora_table.time(notes, q) / count:.0f}") for q in asked]  # type: ignore[misc]
            rows.append([attack, *shares, *times])
        head = [f"{count} gradients", *short, *(f"us, {name}" for name in short)]
        found += table(head, rows)
    return found
