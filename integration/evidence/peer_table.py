"""Peers: the same number of gradients an image through every library, on the same nets and images."""

from __future__ import annotations

from collections.abc import Iterator

import lora_table
from strength_cells import POWER
from study import Notes, Question, Scale, cells, percent, table

from art_lowrank.statistics import Interval

TITLE = "The same budget through every library"
CLAIM = "At the same number of gradients an image the low-rank search is as strong as what other libraries offer."
STEPS = (20, 100)
PEERS = ("torchattacks PGDL2", "ART PGD", "foolbox L2PGD", "AutoAttack APGD-CE", "AutoAttack APGD-DLR",
         "adv-lib APGD-CE", "adv-lib APGD-DLR")  # fmt: skip


OURS = ("a tenth of full rank", "a third", "full rank")


def steps_of(scale: Scale) -> tuple[int, ...]:
    return STEPS[:1] if scale.small else STEPS


def row_of(scale: Scale, attack: str, steps: int) -> list[Question]:
    """One attack on every net."""
    found = []
    for one in lora_table.all_tables(scale):
        ranks = dict(zip(OURS, (one.low, one.middle, "full"), strict=True))
        found.append(one.power(ranks[attack], steps) if attack in ranks else one.apgd(attack, steps))
    return found


def questions(scale: Scale) -> Iterator[Question]:
    for one in lora_table.all_tables(scale):
        yield one.clean()
    for steps in steps_of(scale):
        for attack in (*PEERS, *OURS):
            yield from row_of(scale, attack, steps)


def sentence(notes: Notes, scale: Scale) -> str:
    """The first budget, against the strongest peer of each net."""
    steps = STEPS[0]
    best = strongest(notes, scale, steps)
    told = (
        f"{lora_table.compared(one)} at {what} ({one.points(1)})" for what, one in against(notes, scale, steps, best)
    )
    found = lora_table.images(lora_table.all_tables(scale))
    return (
        f"With {steps} gradients `power` against the strongest of seven peers on each net: {', '.join(told)}; {found}."
    )


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """Ours against the strongest peer of each net, and against each peer."""
    lines = [f"{lora_table.images(lora_table.all_tables(scale))}; negative: ours is stronger."]
    for steps in steps_of(scale):
        best = strongest(notes, scale, steps)
        ours = against(notes, scale, steps, best)
        told = (f"{what} {one.points(1)} ({lora_table.compared(one)})" for what, one in ours)
        names = ", ".join(dict.fromkeys(question.attack for question in best))
        lines.append(f"{steps} gradients, `power` against the strongest peer of each net ({names}): {', '.join(told)}.")
    return lines


def against(notes: Notes, scale: Scale, steps: int, best: list[Question]) -> list[tuple[str, Interval]]:
    """Ours at every rank less the best of each net."""
    return [(what, notes.mean_difference(zip(row_of(scale, what, steps), best, strict=True))) for what in OURS]


def strongest(notes: Notes, scale: Scale, steps: int) -> list[Question]:
    """Of each net the peer that leaves least."""
    rows = [row_of(scale, attack, steps) for attack in PEERS]
    return [min(column, key=lambda q: notes.accuracy(q).value) for column in zip(*rows, strict=True)]


def tables(notes: Notes, scale: Scale) -> list[str]:
    """Robust accuracy, and microseconds of process time a gradient and image."""
    short = [one.subject.short for one in lora_table.all_tables(scale)]
    lines = []
    for steps in steps_of(scale):
        rows = []
        for attack in (*PEERS, *OURS):
            asked = row_of(scale, attack, steps)
            shares = cells(lambda q: percent(notes.accuracy(q)), asked)
            times = cells(lambda q, steps=steps: f"{1000 * lora_table.seconds(notes, q) / steps:.0f}", asked)
            rows.append([f"{POWER}, {attack}" if attack in OURS else attack, *shares, *times])
        lines += table([f"{steps} gradients", *short, *(f"us, {name}" for name in short)], rows)
    return lines
