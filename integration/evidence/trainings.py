"""Trainings as questions: a net of a course, trained one way, and what is then looked at (`looks.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from courses import COURSES, Course, moved
from looks import LOOKS, Judged, clean, quick, shape
from study import Notes, Question, Scale
from torch import nn
from ways import Way
from worlds import Split

from art_lowrank.record import JSON
from art_lowrank.training.loop import Course as Length
from art_lowrank.training.loop import Diverged, Learner, shuffled, train
from art_lowrank.training.objectives import Objective

KIND = "evidence-training"
TUNED, TESTED = 500, 200  # images an attack sees


def ask(
    scale: Scale, course: str, way: Way, seed: int, looks: Mapping[str, JSON], fixed: float | None = None
) -> Question:
    """The net that counts: its rate is the best of those tried, on images to tune on; the small mode tries one.

    `looks` says what is measured of it, by the names of `looks.LOOKS`.
    """
    of = COURSES[course]
    rate: JSON = fixed or (of.rates[0] if scale.small else "tuned")
    n = min(100 if scale.small else TESTED, scale.n or TESTED)
    settings = {"course": course, **way.settings(), "rate": rate, "epochs": of.epochs, **looks}
    return Question(KIND, of.net, f"{of.dataset}-test[:{n}]", "training", n, settings, seed, way)


def tuning(course: str, way: Way, norm: str, eps: float) -> list[Question]:
    """The rates that are tried with the first seed."""
    of = COURSES[course]
    shared = {"course": course, **way.settings(), "epochs": of.epochs, "norm": norm, "eps_tuned": eps}
    data = f"{of.dataset}-train[{of.trained_on}:]"
    return [Question(KIND, of.net, data, "tuning", TUNED, {**shared, "rate": rate}, 0, way) for rate in of.rates]


class Trainings:
    """The ways of one comparison: what is asked of each, and how the answers are found again."""

    def __init__(
        self,
        scale: Scale,
        course: str,
        ways: Mapping[str, Way],
        norm: str,
        eps: float,
        rates: Callable[[str], float] | None = None,  # by way, instead of tuning them
        **looks: JSON,
    ):
        self.scale, self.course, self.ways = scale, course, ways
        self.norm, self.eps, self.looks = norm, eps, {"norm": norm, "eps_tuned": eps, **looks}
        self.rates = rates

    def of(self, name: str) -> list[Question]:
        """A question a seed."""
        fixed = self.rates(name) if self.rates else None
        return [ask(self.scale, self.course, self.ways[name], seed, self.looks, fixed) for seed in self.scale.seeds]

    def all(self) -> list[Question]:
        found: list[Question] = []
        for name, way in self.ways.items():
            found += [] if self.scale.small or self.rates else tuning(self.course, way, self.norm, self.eps)
            found += self.of(name)
        return found


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Train, then measure what was asked."""
    settings = question.settings
    course, way = COURSES[str(settings["course"])], question.job
    rate = settings["rate"] if settings["rate"] != "tuned" else best_rate(question, notes)
    started = time.process_time()
    try:
        model = trained(course, way, float(str(rate)), question.seed or 0)
    except (Diverged, torch.linalg.LinAlgError) as error:
        return {"rate": rate, "diverged": str(error)[:80]}, {"train_seconds": time.process_time() - started}
    spent = time.process_time() - started
    part = course.parts()[1 if question.attack == "tuning" else 2]
    seen = Split(part.x[: question.n], part.y[: question.n])
    values: Judged = {"rate": rate, **clean(model, part)}
    if question.attack == "tuning":
        values["robust"] = quick(model, seen, str(settings["norm"]), float(str(settings["eps_tuned"])))
    else:
        values.update(shape(model))
        for name, look in LOOKS.items():
            if settings.get(name):
                values[name] = look(model, seen, settings[name])
    return values, {"train_seconds": spent}


def best_rate(question: Question, notes: Notes) -> float:
    """The rate with the best mean of clean and robust accuracy on images to tune on."""
    settings = question.settings
    norm, eps = str(settings["norm"]), float(str(settings["eps_tuned"]))
    scores: dict[float, float] = {}
    for one in tuning(str(settings["course"]), question.job, norm, eps):
        values: Any = notes.record(one).values
        scores[values["rate"]] = 0.0 if "diverged" in values else values["clean"] + values["robust"]
    return max(scores, key=lambda rate: scores[rate])


def trained(course: Course, way: Way, rate: float, seed: int) -> nn.Module:
    """The net after its epochs, in evaluation mode and frozen."""
    split = course.parts()[0]
    model, optimizer, handles = way.built(course, seed, rate)
    scheduler: Any = None
    if course.one_cycle:
        steps = course.epochs * -(-course.trained_on // course.batch)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps + 1, anneal_strategy="linear", cycle_momentum=False
        )
        optimizer.register_step_post_hook(lambda *_: cycle.step())
    else:
        milestones = [course.epochs // 2, course.epochs * 3 // 4]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.3)
    adversary = way.adversary(course)
    objective = Objective("madry", adversary) if adversary else Objective()
    batches: Callable[[int], Any] = (
        moved(split, course.batch, seed, course.padding)
        if course.padding
        else shuffled(*split, course.batch, seed, torch.device("cpu"))
    )
    learner = Learner(model, model, optimizer, objective, handles, scheduler)
    train(learner, batches, Length(course.epochs, seed, verbose=False))
    return model.eval().requires_grad_(False)
