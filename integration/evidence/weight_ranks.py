"""Claim: adversarial training drives weights to low rank and sparsity; penalties for either give some robustness."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import adversarial_training
import numpy as np
from layers import mean as over_layers
from layers import measured
from study import Notes, Question, Scale, cell, cells, percent, plural, table
from trained_rows import difference, mean, spread
from trainings import Trainings
from ways import DENSE, Way
from worlds import model_of

from art_lowrank.record import JSON

TITLE = "Ranks and sparsity of weights"
CLAIM = (
    "Adversarial training pushes weights towards low effective rank and sparsity at once; conversely nuclear-norm and "
    "l1 penalties lower the fooling ratio, though less than adversarial training (arXiv 1901.10371)."
)
KIND = "evidence-weights"
MEASURES = {"ratio": "(nuclear/Frobenius)^2", "stable": "stable rank", "entropy": "entropy rank",
            "dense": "(l1/l2)^2"}  # fmt: skip
TWINS = {
    "assets": ("mnist_lenet5_standard", "mnist_lenet5_linf_adv"),
    "digits": ("digits_standard", "digits_adversarial"),
}
PENALISED = {"assets": ("lenet5", "inf", 0.1, "inf 0.1"), "digits": ("digits", "2", 0.5, "2 0.5")}
SAME = 0.98  # nearer than this is the same
RATE = 0.04  # of penalised nets and the dense one beside them
NUCLEAR, SPARSE = (3e-2, 1e-1), (1e-3, 3e-3)


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Every layer of a real net."""
    found = measured(model_of(question.model))
    return {"layers": found, **{name: over_layers(found, name) for name in MEASURES}}, {}


def of_net(name: str) -> Question:
    return Question(KIND, name, "none", "none", 1, seed=None)


def standard(scale: Scale, arena: adversarial_training.Arena) -> Trainings:
    """The same course as in adversarial training, on clean images."""
    ways, judge = {"clean images": Way("clean images")}, f"2 {arena.eps / 2:g} {arena.eps:g}"
    return Trainings(scale, arena.course, ways, "2", arena.eps, lambda _: arena.rate, judge=judge)


def penalised(scale: Scale) -> Trainings:
    """Dense nets under penalties of growing weight."""
    course, norm, eps, judge = PENALISED[scale.where]
    ways = [DENSE]
    ways += [Way(f"nuclear {value:g}", "nuclear", 1.0, {"nuclear": value}) for value in NUCLEAR]
    ways += [Way(f"l1 {value:g}", "nuclear", 1.0, {"nuclear": 0.0, "sparse": value}) for value in SPARSE]
    return Trainings(scale, course, {way.name: way for way in ways}, norm, eps, lambda _: RATE, judge=judge)


def questions(scale: Scale) -> Iterator[Question]:
    yield from (of_net(name) for name in scale.world.subjects)
    for arena in adversarial_training.ARENAS[scale.where]:
        yield from standard(scale, arena).all()
        trained = adversarial_training.trainings(scale, arena).all()
        yield from (question for question in trained if question.settings["way"] == adversarial_training.PGD)
    yield from penalised(scale).all()


def trained_pairs(scale: Scale) -> Iterator[tuple[adversarial_training.Arena, list[Question], list[Question]]]:
    """The same course on clean images and against PGD."""
    for arena in adversarial_training.ARENAS[scale.where]:
        hard = adversarial_training.trainings(scale, arena).of(adversarial_training.PGD)
        yield arena, standard(scale, arena).of("clean images"), hard


def verdict(notes: Notes, scale: Scale) -> list[str]:
    plain, hardened = (of_net(name) for name in TWINS[scale.where])
    lines = [
        f"Twins that others trained ({plain.model}, {hardened.model}; one net each): the adversarial one has "
        + "; ".join(compared(float(notes.value(hardened, name)), float(notes.value(plain, name)), said)
                    for name, said in MEASURES.items()) + ", mean over layers."
    ]  # fmt: skip
    for arena, clean, hard in trained_pairs(scale):
        told = [compared(mean(notes, hard, name), mean(notes, clean, name), said) for name, said in MEASURES.items()]
        lines.append(f"{arena.course}, trained here, {plural(len(hard), 'seed')}: {'; '.join(told)}.")
    return [*lines, reverse(notes, scale)]


def pairs(notes: Notes, scale: Scale, measure: str) -> list[tuple[float, float]]:
    """Of nets that differ in their training images alone: after clean images, after adversarial ones."""
    found = [tuple(float(notes.value(of_net(net), measure)) for net in TWINS[scale.where])]
    for _, clean, hard in trained_pairs(scale):
        found.append((mean(notes, clean, measure), mean(notes, hard, measure)))
    return found


def sentence(notes: Notes, scale: Scale) -> str:
    """In how many pairs a measure is lower after adversarial training, and which penalties help."""
    both = {said: pairs(notes, scale, name) for name, said in MEASURES.items()}
    lower = {said: sum(hard < SAME * plain for plain, hard in found) for said, found in both.items()}
    told = ", ".join(f"{said} in {count}" for said, count in lower.items())
    of, eps = penalised(scale), PENALISED[scale.where][2]
    base = of.of("dense")
    ends = [difference(notes, of.of(name), base, f"judge/{eps:g}") for name in list(of.ways)[1:]]
    return (
        f"Of {len(next(iter(both.values())))} pairs of nets, one trained on clean and one on adversarial images, the "
        f"adversarial one has a lower {told}; of {len(ends)} penalties {sum(one.low > 0 for one in ends)} help and "
        f"{sum(one.high < 0 for one in ends)} harm (n = {base[0].n}, {plural(len(base), 'seed')})."
    )


def compared(hardened: float, plain: float, said: str) -> str:
    word = "**lower**" if hardened < SAME * plain else "**higher**" if hardened > plain / SAME else "the same"
    return f"{said} {hardened:.3f} instead of {plain:.3f} of full ({word})"


def reverse(notes: Notes, scale: Scale) -> str:
    of = penalised(scale)
    course, norm, eps, _ = PENALISED[scale.where]
    told = cells(partial(one_reverse, notes, of, f"judge/{eps:g}"), list(of.ways)[1:])
    base = of.of("dense")
    return (
        f"Reverse direction, {course}, {'l_inf' if norm == 'inf' else 'l2'} {eps:g}, n = {base[0].n}, "
        f"{plural(len(base), 'seed')}, robust accuracy less that of the dense net: {'; '.join(told)}."
    )


def one_reverse(notes: Notes, of: Trainings, path: str, name: str) -> str:
    one = difference(notes, of.of(name), of.of("dense"), path)
    word = "helps" if one.low > 0 else "harms" if one.high < 0 else "nothing shown"
    return f"{name} {one.points(1)} ({word})"


def tables(notes: Notes, scale: Scale) -> list[str]:
    """Real nets; twins layer by layer; nets trained here."""

    def shares(name: str) -> list[str]:
        return cells(lambda measure: f"{float(notes.value(of_net(name), measure)):.3f}", MEASURES)

    rows = [[one.name, one.training, *shares(one.name)] for one in scale.world.subjects.values()]
    head = ["net", "training", *MEASURES.values()]
    found = ["Shares of full rank, and of all entries; mean over layers.", "", *table(head, rows)]
    found += twins(notes, scale)
    rows = []
    for arena, clean, hard in trained_pairs(scale):
        path = f"judge/{arena.eps:g}"
        rows.append(row(notes, f"{arena.course}, clean images", path, clean))
        rows.append(row(notes, f"{arena.course}, PGD", path, hard))
    of, eps = penalised(scale), PENALISED[scale.where][2]
    rows += [row(notes, f"{of.course}, {name}", f"judge/{eps:g}", of.of(name)) for name in of.ways]
    return found + table(["trained here", "clean", "robust", *MEASURES.values()], rows)


def row(notes: Notes, name: str, path: str, asked: list[Question]) -> list[str]:
    shares = cells(lambda measure: f"{mean(notes, asked, measure):.3f}", MEASURES)
    return [name, cell(lambda: percent(mean(notes, asked, "clean"))), cell(lambda: spread(notes, asked, path)), *shares]


def twins(notes: Notes, scale: Scale) -> list[str]:
    """Layer by layer."""
    plain, hardened = (of_net(name) for name in TWINS[scale.where])
    if not (notes.has(plain) and notes.has(hardened)):
        return []
    pairs: list[tuple[Any, Any]] = list(
        zip(*(np.asarray(notes.value(one, "layers"), dtype=object) for one in (plain, hardened)), strict=True)
    )
    rows = [[str(a["layer"]), *(f"{a[name]:.3f} -> {b[name]:.3f}" for name in MEASURES)] for a, b in pairs]
    return table([f"{plain.model} -> {hardened.model}", *MEASURES.values()], rows)
