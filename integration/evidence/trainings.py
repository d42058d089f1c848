"""Answers `training`: trains a net one way, and measures everything that the claims ask of it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from conditioning import relative_change
from courses import COURSES, Course, moved
from layers import mean, measured
from study import Notes, Question, Scale
from tightness import tightness_of
from torch import Tensor, nn
from ways import Way
from worlds import Split

from art_lowrank import lowrank_pgd
from art_lowrank.record import JSON, pack
from art_lowrank.training.loop import Course as Length
from art_lowrank.training.loop import Diverged, Learner, shuffled, train
from art_lowrank.training.objectives import Objective
from art_lowrank.weights import ranks_of

KIND = "evidence-training"
TUNED, TESTED = 500, 200  # images an attack sees
ITERATIONS, TARGETS = 50, 3  # of APGD, as in integration/training
MASKED, MARGIN = 200, 5.0  # images of that look, and the margin that logits are brought down to
POINTS = 10  # of the published evaluation: PGD with 10 steps of 1.25 eps / 10 on cross-entropy

Judged = dict[str, JSON]


def ask(
    scale: Scale, course: str, way: Way, seed: int, looks: Mapping[str, JSON], fixed: float | None = None
) -> Question:
    """The net that counts: its rate is the best of those tried, on images to tune on; the small mode tries one.

    `looks` says what is measured of it: `judge` (norm and ascending radii), `masking` (radii), `bound`, `layers`.
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


def clean(model: nn.Module, part: Split) -> Judged:
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) for x in part.x.split(500)]) == part.y
    return {"clean": float(right.double().mean()), "right": pack(right.tolist())}


def quick(model: nn.Module, seen: Split, norm: str, eps: float) -> float:
    """Robust accuracy by a short attack, to tune with."""
    found = lowrank_pgd(model, *seen, eps=eps, norm="inf" if norm == "inf" else 2, rank="full", steps=10)
    return 1 - float(found.success.double().mean())


def shape(model: nn.Module) -> Judged:
    """Stored parameters, ranks, and the layers' measures."""
    found = measured(model)
    low = [layer["low_rank"] for layer in found]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "ranks": ranks_of(model),
        "layers": found,
        "cond": max(float(str(layer["cond"])) for layer in found if layer["low_rank"] or not any(low)),
        **{name: mean(found, name) for name in ("stable", "ratio", "entropy", "dense")},
    }


def judged(model: nn.Module, seen: Split, asked: JSON) -> Judged:
    """What survives APGD-CE and APGD-T at ascending radii: an image broken at one is broken at all larger ones."""
    from robustness import robust

    norm, *radii = str(asked).split()
    holds, found = torch.ones(len(seen.y), dtype=torch.bool), {}
    for eps in radii:
        rows = holds.nonzero().flatten()
        if len(rows):
            ball = float("inf") if norm == "inf" else 2
            holds[rows] = robust(model, seen.x[rows], seen.y[rows], float(eps), ball, ITERATIONS, TARGETS)
        found[eps] = pack(holds.tolist())
    return {**found}


def low_rank_judge(model: nn.Module, seen: Split, asked: JSON) -> Judged:
    """What survives the low-rank search at a tenth of full rank, in l2."""
    found = lowrank_pgd(model, *seen, eps=float(str(asked)), rank=0.1, steps=20)
    return {"holds": pack((~found.success).tolist())}


def masking(model: nn.Module, seen: Split, asked: JSON) -> Judged:
    """The published evaluation (l2 PGD, ten steps, cross-entropy), the same on rescaled logits, and the margin.

    Logits whose median margin on clean images is above 5 are made that much smaller, which changes no prediction: where
    more images break then, cross-entropy's gradients had vanished. `zero` counts images without any gradient.
    """
    seen = Split(seen.x[:MASKED], seen.y[:MASKED])
    with torch.no_grad():
        best = model(seen.x).topk(2, dim=1).values
    margin = float((best[:, 0] - best[:, 1]).median())
    scale = max(1.0, margin / MARGIN)

    def rescaled(x: Tensor) -> Tensor:
        logits: Tensor = model(x) / scale
        return logits

    found: Judged = {"n": len(seen.y), "median_margin": margin, "zero": zero_gradients(model, seen)}
    for eps in str(asked).split():
        radius = float(eps)
        fixed = {"loss": "ce", "step_size": 1.25 * radius / POINTS}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*images were not broken.*")  # that is what is asked
            runs = {
                "ce": lowrank_pgd(model, *seen, eps=radius, rank="full", steps=POINTS, **fixed),
                "rescaled": lowrank_pgd(rescaled, *seen, eps=radius, rank="full", steps=POINTS, **fixed),
                "margin": lowrank_pgd(model, *seen, eps=radius, rank="full", steps=POINTS),
            }
        found[eps] = {name: pack((~one.success).tolist()) for name, one in runs.items()}
    return found


def zero_gradients(model: nn.Module, seen: Split) -> int:
    """Images whose cross-entropy has no gradient at all."""
    with torch.enable_grad():
        x = seen.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), seen.y, reduction="sum"), x)
    return int((gradient.flatten(1).abs().amax(1) == 0).sum())


LOOKS: dict[str, Callable[[nn.Module, Split, JSON], Any]] = {
    "judge": judged,
    "low_rank_judge": low_rank_judge,
    "masking": masking,
    "bound": relative_change,
    "tightness": tightness_of,
}
