"""Claim: adversarial training drives weights to low rank and sparsity; penalties for either give some robustness."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import adversarial_training
import numpy as np
from layers import mean as over_layers
from layers import measured
from study import Notes, Question, Scale, cell, percent, table
from trained_rows import difference, mean, spread
from trainings import KIND as TRAINING
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
KINDS = (KIND, TRAINING)
MEASURES = {"ratio": "(nuclear/Frobenius)^2", "stable": "stable rank", "entropy": "entropy rank",
            "dense": "(l1/l2)^2"}  # fmt: skip
TWINS = {"assets": ("mnist_lenet5_standard", "mnist_lenet5_linf_adv"), "digits": ("digits_standard", "digits_adversarial")}
PENALISED = {"assets": ("lenet5", "inf", 0.1, "inf 0.1"), "digits": ("digits", "2", 0.5, "2 0.5")}
NUCLEAR, SPARSE = (1e-2, 3e-2, 1e-1), (3e-4, 1e-3, 3e-3)


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Every layer of a real net."""
    found = measured(model_of(question.model))
    return {"layers": found, **{name: over_layers(found, name) for name in MEASURES}}, {}


def of_net(name: str) -> Question:
    return Question(KIND, name, "none", "none", 1, seed=None)


def standard(scale: Scale, arena: adversarial_training.Arena) -> Trainings:
    """The same course as in adversarial training, on clean images."""
    ways = {"clean images": Way("clean images")}
    return Trainings(scale, arena.course, ways, "2", arena.eps, judge=f"2 {arena.eps / 2:g} {arena.eps:g}")


def penalised(scale: Scale) -> Trainings:
    """Dense nets under penalties of growing weight."""
    course, norm, eps, judge = PENALISED[scale.where]
    ways = [DENSE]
    ways += [Way(f"nuclear {value:g}", "nuclear", 1.0, {"nuclear": value}) for value in NUCLEAR]
    ways += [Way(f"l1 {value:g}", "nuclear", 1.0, {"nuclear": 0.0, "sparse": value}) for value in SPARSE]
    ways += [Way("nuclear 0.03 + l1 0.001", "nuclear", 1.0, {"nuclear": 3e-2, "sparse": 1e-3})]
    return Trainings(scale, course, {way.name: way for way in ways}, norm, eps, judge=judge)


def questions(scale: Scale) -> Iterator[Question]:
    yield from (of_net(name) for name in scale.world.subjects)
    for arena in adversarial_training.ARENAS[scale.where]:
        yield from standard(scale, arena).all()
        trained = adversarial_training.trainings(scale, arena).all()
        yield from (question for question in trained if question.settings["way"] == adversarial_training.PGD)
    yield from penalised(scale).all()


def verdict(notes: Notes, scale: Scale) -> list[str]:
    plain, hardened = (of_net(name) for name in TWINS[scale.where])
    lines = [
        f"Twins that others trained ({plain.model}, {hardened.model}; one net each): the adversarial one has "
        + "; ".join(compared(float(notes.value(hardened, name)), float(notes.value(plain, name)), said)
                    for name, said in MEASURES.items()) + ", mean over layers."
    ]  # fmt: skip
    for arena in adversarial_training.ARENAS[scale.where]:
        clean = standard(scale, arena).of("clean images")
        hard = adversarial_training.trainings(scale, arena).of(adversarial_training.PGD)
        told = [compared(mean(notes, hard, name), mean(notes, clean, name), said) for name, said in MEASURES.items()]
        seeds = len(scale.seeds)
        lines.append(f"{arena.course}, trained here, {seeds} seed{'s' * (seeds > 1)}: {'; '.join(told)}.")
    return lines + [reverse(notes, scale)]


def compared(hardened: float, plain: float, said: str) -> str:
    word = "**lower**" if hardened < 0.98 * plain else "**higher**" if hardened > 1.02 * plain else "the same"
    return f"{said} {hardened:.3f} instead of {plain:.3f} of full ({word})"


def reverse(notes: Notes, scale: Scale) -> str:
    of = penalised(scale)
    course, norm, eps, _ = PENALISED[scale.where]
    told = []
    for name in list(of.ways)[1:]:
        told.append(cell(partial(one_reverse, notes, of, name, f"judge/{eps:g}")))
    n, seeds = of.of("dense")[0].n, len(scale.seeds)
    return (
        f"Reverse direction, {course}, {'l_inf' if norm == 'inf' else 'l2'} {eps:g}, n = {n}, {seeds} "
        f"seed{'s' * (seeds > 1)}, robust accuracy less that of the dense net: {'; '.join(told)}."
    )


def one_reverse(notes: Notes, of: Trainings, name: str, path: str) -> str:
    one = difference(notes, of.of(name), of.of("dense"), path)
    word = "helps" if one.low > 0 else "harms" if one.high < 0 else "nothing shown"
    return f"{name} {one.points(1)} ({word})"


def tables(notes: Notes, scale: Scale) -> list[str]:
    """Real nets; twins layer by layer; nets trained here."""
    def share(question: Question, name: str) -> str:
        return cell(lambda: f"{float(notes.value(question, name)):.3f}")

    subjects = scale.world.subjects.values()
    rows = [[s.name, s.training, *(share(of_net(s.name), name) for name in MEASURES)] for s in subjects]
    head = ["net", "training", *MEASURES.values()]
    found = ["Shares of full rank, and of all entries; mean over layers.", "", *table(head, rows)]
    found += twins(notes, scale)
    rows = []
    for arena in adversarial_training.ARENAS[scale.where]:
        trained = {
            "clean images": standard(scale, arena).of("clean images"),
            "PGD": adversarial_training.trainings(scale, arena).of(adversarial_training.PGD),
        }
        rows += [row(notes, f"{arena.course}, {name}", f"judge/{arena.eps:g}", asked) for name, asked in trained.items()]
    of, eps = penalised(scale), PENALISED[scale.where][2]
    rows += [row(notes, f"{of.course}, {name}", f"judge/{eps:g}", of.of(name)) for name in of.ways]
    return found + table(["trained here", "clean", "robust", *MEASURES.values()], rows)


def row(notes: Notes, name: str, path: str, asked: list[Question]) -> list[str]:
    shares = [cell(lambda m=m: f"{mean(notes, asked, m):.3f}") for m in MEASURES]  # type: ignore[misc]
    return [name, cell(lambda: percent(mean(notes, asked, "clean"))), cell(lambda: spread(notes, asked, path)), *shares]


def twins(notes: Notes, scale: Scale) -> list[str]:
    """Layer by layer."""
    plain, hardened = (of_net(name) for name in TWINS[scale.where])
    if not (notes.has(plain) and notes.has(hardened)):
        return []
    pairs: list[tuple[Any, Any]] = list(
        zip(*(np.asarray(notes.value(one, "layers"), dtype=object) for one in (plain, hardened)), strict=True)
    )
    rows = [
        [str(a["layer"]), *(f"{a[name]:.3f} -> {b[name]:.3f}" for name in MEASURES)] for a, b in pairs
    ]
    return table([f"{plain.model} -> {hardened.model}", *MEASURES.values()], rows)
