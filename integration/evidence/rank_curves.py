"""What the effective attack rank says about how a net was trained: rank curves of all nets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from study import Notes, Question, Scale, cell, percent, table
from worlds import Subject, images_of, model_of, subject_of

from art_lowrank import eps_curve, lowrank_pgd, rank_curve
from art_lowrank.record import JSON, pack
from art_lowrank.statistics import Interval

TITLE = "Rank curves of all nets"
CLAIM = (
    "The effective attack rank (the smallest within a point of full rank) says something about how a net was trained. "
    "Nobody's claim yet: measured at one radius, and at the radius that halves each net's accuracy."
)
KIND, RADIUS, LENGTH = "evidence-curve", "evidence-radius", "evidence-length"
STEPS, BATCH, DRAWS, NEAR = 10, 200, 1000, 0.01
FACTORS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5,
           3.0)  # of the net's eps: where halving is looked for  # fmt: skip


def radius(scale: Scale, subject: Subject) -> Question:
    """The radius is looked for on training images; ImageNet has none here, and gives its own."""
    split = "test" if subject.dataset == "imagenet" else "train"
    n = scale.images(subject.name, 300)
    return Question(RADIUS, subject.name, subject.data(n, split), "eps_curve", n, {"eps": subject.eps, "steps": STEPS})


def curve(scale: Scale, subject: Subject, at: JSON) -> Question:
    n = scale.images(subject.name, 1000)
    settings = {"eps": at, "steps": STEPS}
    return Question(KIND, subject.name, subject.data(n), "rank_curve", n, settings, job=radius(scale, subject))


def length(scale: Scale, subject: Subject) -> Question:
    """How much of the radius the box leaves of a perturbation of half rank, and of full rank."""
    n = scale.images(subject.name, 100)
    settings = {"eps": subject.eps, "steps": STEPS, "rank": subject.ranks[-1]}
    return Question(LENGTH, subject.name, subject.data(n), "lowrank_pgd", n, settings)


def questions(scale: Scale) -> Iterator[Question]:
    for subject in scale.world.subjects.values():
        yield length(scale, subject)
        yield radius(scale, subject)
        yield curve(scale, subject, subject.eps)
        yield curve(scale, subject, "halving")


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Which rank or radius breaks each image."""
    subject = subject_of(question.model)
    dataset, split = question.data.split("[")[0].split("-")
    x, y = images_of(dataset, question.n, split)
    model, steps = model_of(question.model), int(str(question.settings["steps"]))
    parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
    if question.kind == RADIUS:
        radii = [factor * subject.eps for factor in FACTORS]
        found = [eps_curve(model, *part, eps=radii, rank="full", steps=steps) for part in parts]
        breaking = torch.cat([one.breaking for one in found])
        clean = float((breaking > 0).double().mean())
        left = [float((breaking > eps).double().mean()) for eps in found[0].values]
        place = int(np.argmin([abs(share - clean / 2) for share in left]))
        return {"clean": clean, "accuracy": left, "halving": found[0].values[place]}, {}
    eps = question.settings["eps"]
    if eps == "halving":
        eps = notes.value(question.job, "halving")
    curves = [rank_curve(model, *part, eps=float(str(eps)), steps=steps) for part in parts]
    breaking = torch.cat([one.breaking for one in curves])
    gradients = torch.cat([one.queries.gradients for one in curves]).double()
    ranks = curves[0].values
    broken: dict[str, JSON] = {f"{rank:g}": pack((breaking <= rank).tolist()) for rank in (0.0, *ranks)}
    return {"eps": eps, "ranks": list(ranks), "broken": broken, "gradients": float(gradients.mean())}, {}


def answer_length(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Mean lengths after the box, as shares of the radius."""
    x, y = images_of(question.data.split("-")[0], question.n)
    given = {name: question.settings[name] for name in ("eps", "steps")}
    used: dict[str, JSON] = {}
    for name, rank in (("half", question.settings["rank"]), ("full", "full")):
        moved = lowrank_pgd(model_of(question.model), x, y, rank=rank, **given).x
        used[name] = float((moved - x).flatten(1).norm(dim=1).mean()) / float(str(given["eps"]))
    return used, {}


def flags(notes: Notes, question: Question) -> tuple[list[float], Any]:
    """Ranks, and (ranks + 1, n): 1 where the net stayed right; the first row is clean."""
    ranks = notes.value(question, "ranks")
    return ranks, np.stack([1 - notes.holds(question, f"broken/{rank:g}") for rank in (0.0, *ranks)])


def effective(ranks: Sequence[float], holds: Any) -> Interval:
    """The smallest rank within a point of full rank, and the ends of its bootstrap interval over images."""
    draws = np.random.default_rng(0).integers(holds.shape[1], size=(DRAWS, holds.shape[1]))
    found = sorted(smallest(ranks, holds[:, draw].mean(1)) for draw in draws)
    low, high = found[int(0.025 * DRAWS)], found[int(0.975 * DRAWS)]
    return Interval(smallest(ranks, holds.mean(1)), low, high)


def smallest(ranks: Sequence[float], accuracy: Any) -> float:
    return next(rank for rank, share in zip(ranks, accuracy[1:], strict=True) if share - accuracy[-1] <= NEAR + 1e-9)


def one_rank(holds: Any) -> float:
    """Of the images that full rank breaks, the share that rank 1 breaks too."""
    clean, first, last = holds[0], holds[1], holds[-1]
    return float((clean - first).sum() / max(1.0, (clean - last).sum()))


def verdict(notes: Notes, scale: Scale) -> list[str]:
    """The effective ranks, and where they are about the box and not about rank."""
    lines = []
    subjects = scale.world.subjects.values()
    for dataset in dict.fromkeys(subject.dataset for subject in subjects):
        told = [told_of(notes, scale, subject) for subject in subjects if subject.dataset == dataset]
        lines.append(f"{dataset}, effective attack rank at the radius that halves accuracy: {'; '.join(told)}.")
    return [*lines, boxed(notes, scale)]


def told_of(notes: Notes, scale: Scale, subject: Subject) -> str:
    ranks, holds = flags(notes, curve(scale, subject, "halving"))
    rank = effective(ranks, holds)
    return (
        f"{subject.short} ({subject.training}) {rank.value:g} [{rank.low:g}, {rank.high:g}] of {ranks[-1]:g}, rank 1 "
        f"does {percent(one_rank(holds))} % of what full rank does"
    )


def boxed(notes: Notes, scale: Scale) -> str:
    """Nets on which the box takes a tenth or more of a perturbation of half rank, which full rank can make up for."""
    short = []
    for subject in scale.world.subjects.values():
        half, full = (float(notes.value(length(scale, subject), name)) for name in ("half", "full"))
        if half < full - 0.1:
            short.append(f"{subject.short} ({used_length(notes, scale, subject)})")
    if not short:
        return "On no net does the box take a tenth of the length of a perturbation of half rank."
    return (
        f"The box takes much of a low-rank perturbation's length where images lie on the bounds, and little of a full-"
        f"rank one's; there a jump at full rank is in part the box's: {', '.join(short)} of the radius is used at half "
        f"rank and at full rank."
    )


def sentence(notes: Notes, scale: Scale) -> str:
    """Whether what rank 1 does separates standard from hardened training, data set by data set."""
    subjects = scale.world.subjects.values()
    told = []
    for dataset in dict.fromkeys(subject.dataset for subject in subjects):
        kinds: dict[bool, list[float]] = {True: [], False: []}
        for subject in (one for one in subjects if one.dataset == dataset):
            _, holds = flags(notes, curve(scale, subject, "halving"))
            kinds[subject.training.startswith("standard")].append(one_rank(holds))
        if all(kinds.values()):
            plain, hard = (", ".join(percent(share) for share in sorted(kinds[key])) for key in (True, False))
            word = "apart" if max(kinds[True]) < min(kinds[False]) else "not apart"
            told.append(
                f"{plain} % in nets of standard training and {hard} % in hardened ones on {dataset} (**{word}**)"
            )
    return (
        f"Of what full rank breaks at the radius that halves a net's accuracy, rank 1 breaks {'; '.join(told)}: "
        f"{len(subjects)} nets are too few for more than a description (n = {images(scale)} images a net)."
    )


def images(scale: Scale) -> str:
    counts = sorted({scale.images(name, 1000) for name in scale.world.subjects})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])


def tables(notes: Notes, scale: Scale) -> list[str]:
    found = []
    for dataset in dict.fromkeys(subject.dataset for subject in scale.world.subjects.values()):
        subjects = [subject for subject in scale.world.subjects.values() if subject.dataset == dataset]
        asked = [curve(scale, subject, at) for subject in subjects for at in (subject.eps, "halving")]
        known = [one for one in asked if notes.has(one)]
        if not known:
            continue
        ranks = notes.value(known[0], "ranks")
        rows = [row(notes, scale, subject, at) for subject in subjects for at in (subject.eps, "halving")]
        head = [dataset, "l2 eps", "n", "clean", *(f"r={rank:g}" for rank in ranks), "effective rank", "gradients",
                "length used, half and full rank"]  # fmt: skip
        found += table(head, rows)
    return found


def row(notes: Notes, scale: Scale, subject: Subject, at: JSON) -> list[str]:
    question = curve(scale, subject, at)
    if not notes.has(question):
        return [subject.short, str(at), str(question.n), "-"]
    ranks, holds = flags(notes, question)
    rank = effective(ranks, holds)
    eps = float(notes.value(question, "eps"))
    told = f"{notes.value(question, 'gradients'):.1f}"
    used = cell(lambda: used_length(notes, scale, subject)) if at == subject.eps else ""
    shares = [percent(float(share)) for share in holds.mean(1)]
    return [
        subject.short,
        f"{eps:g}",
        str(question.n),
        *shares,
        f"{rank.value:g} [{rank.low:g}, {rank.high:g}]",
        told,
        used,
    ]


def used_length(notes: Notes, scale: Scale, subject: Subject) -> str:
    half, full = (notes.value(length(scale, subject), name) for name in ("half", "full"))
    return f"{100 * half:.0f} %, {100 * full:.0f} %"
