"""Answers `strength`: which images survive an attack, and what it cost. Attacks by the names that records carry."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from study import Notes, Question
from torch import Tensor, nn
from worlds import SHARES, images_of, model_of, teacher_of

from art_lowrank import Factors, lowrank_pgd
from art_lowrank.attack.factors import truncated
from art_lowrank.attack.oracle import evaluating
from art_lowrank.record import JSON, pack
from art_lowrank.spectra import nuclear_norm

KIND = "evidence-strength"
BATCH = 250
PGD, PAPER, POWER = "PGD as published", "lora-pgd[paper]", "lowrank-pgd[power]"
AUTOATTACK, IMAGES = "AutoAttack standard", 200  # on so many images: it takes thousands of queries
LENGTH = 1.8  # of the authors' PGD: its steps are this over their number, in radii
STEP = 0.2  # of the others' PGD, chosen on training images (integration/peers/plan.py)


class Job(NamedTuple):
    """What an attack gets: images of one batch."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    seed: int


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Attack batch by batch; the net's own answer counts, and ball and box are checked."""
    model = model_of(question.model)
    dataset = question.data.split("-")[0]
    x, y = images_of(dataset, question.n)
    settings = dict(question.settings)
    eps = float(settings.pop("eps"))
    wide = radius(question, notes, eps)
    settings["name"] = question.model
    run = ATTACKS[question.attack]
    parts, spent = [], 0.0
    if question.attack != AUTOATTACK:  # what is imported or set up once is nobody's cost
        run(Job(model, x[:2].clone(), y[:2].clone(), wide, 0), {**settings, "steps": 2})
    for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        started = time.process_time()
        with evaluating(model):
            parts.append(run(Job(model, images.clone(), labels.clone(), wide, question.seed or 0), settings))
        spent += time.process_time() - started
    moved = torch.cat(parts).detach()
    values = judged(model, x, y, moved, wide)
    if question.attack == PGD:
        values.update(cut(model, x, y, moved - x, eps))
    if question.attack in (PAPER, POWER):
        values["stored_bytes"] = stored(x, settings["rank"])
    return {**values, "radius": wide}, {"process_seconds": spent, "threads": torch.get_num_threads()}


def judged(model: nn.Module, x: Tensor, y: Tensor, moved: Tensor, eps: float) -> dict[str, JSON]:
    """What holds, and how long the perturbations are in two norms."""
    from outcome import judge

    holds = torch.cat([~judge(model, *part, eps).broken for part in zip(*(t.split(BATCH) for t in (x, y, moved)),
                                                                       strict=True)])  # fmt: skip
    delta = (moved - x).double()
    return {
        "holds": pack(holds.tolist()),
        "robust": float(holds.double().mean()),
        "l2": float(delta.flatten(1).norm(dim=1).mean()),
        "nuclear": float(nuclear_norm(delta).mean()),  # over images and channels, as the authors match it
    }


def cut(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor, eps: float) -> dict[str, JSON]:
    """PGD's perturbation truncated to each rank, as it is and made eps long again; clamped to the box."""
    found: dict[str, JSON] = {}
    for rank in sorted({max(1, round(share * min(x.shape[2:]))) for share in SHARES}):
        short = truncated(delta, rank).dense()
        length = short.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        for name, part in (("truncated", short), ("rescaled", short * (eps / length))):
            with torch.no_grad():
                holds = torch.cat([model(images.clamp(0, 1)).argmax(1) for images in (x + part).split(BATCH)]) == y
            found[f"{name} {rank}"] = pack(holds.tolist())
    return found


def radius(question: Question, notes: Notes, eps: float) -> float:
    """eps, or what gives the low-rank attack PGD's mean nuclear norm: another threat model, since it exceeds eps."""
    if question.settings.get("budget") != "nuclear":
        return eps
    asked = {name: value for name, value in question.settings.items() if name != "budget"}
    plain = notes.value(Question(**{**vars(question), "settings": asked}), "nuclear")
    whole = {name: asked[name] for name in ("eps", "steps")}
    pgd = notes.value(Question(**{**vars(question), "attack": PGD, "settings": whole, "seed": None}), "nuclear")
    return eps * float(pgd) / float(plain)


def stored(x: Tensor, rank: Any) -> int:
    """Bytes of one image's perturbation in float32: two factors, where they are smaller than the whole."""
    _, c, h, w = x.shape
    return 4 * c * (h * w if rank == "full" else min(int(rank) * (h + w), h * w))


def published_pgd(job: Job, settings: Mapping[str, Any]) -> Tensor:
    """torchattacks' PGDL2 as LoRa-PGD's authors run it: no random start, steps of 1.8 eps / N."""
    import torchattacks

    steps = settings["steps"]
    attack = torchattacks.PGDL2(job.model, eps=job.eps, alpha=LENGTH * job.eps / steps, steps=steps, random_start=False)
    moved: Tensor = attack(job.x, job.y)
    return moved


def ours(method: str) -> Callable[[Job, Mapping[str, Any]], Tensor]:
    """`lowrank_pgd`, the published search with any of its starts."""

    def run(job: Job, settings: Mapping[str, Any]) -> Tensor:
        init: str | Factors = settings.get("init", "lora")
        if init == "transfer":
            init = transferred(job, settings)
        model, x, y, eps, seed = job
        given = {name: settings[name] for name in ("rank", "steps")}
        return lowrank_pgd(model, x, y, eps=eps, method=method, init=init, seed=seed, **given).x

    return run


def transferred(job: Job, settings: Mapping[str, Any]) -> Factors:
    """The SVD of one full-rank step on another, ordinary net."""
    teacher = teacher_of(settings["name"])
    step = lowrank_pgd(teacher, job.x, job.y, eps=job.eps, rank="full", steps=1, loss="ce", step_size=job.eps)
    return truncated(step.x - job.x, settings["rank"])


def peer(name: str, **fixed: Any) -> Callable[[Job, Mapping[str, Any]], Tensor]:
    """An attack of integration/peers; APGD takes one gradient more than it has steps."""

    def run(job: Job, settings: Mapping[str, Any]) -> Tensor:
        import attacks

        model, x, y, eps, seed = job
        steps = settings["steps"] - ("loss" in fixed)
        found: Tensor = getattr(attacks, name)(model, x.contiguous(), y, eps, seed, steps=steps, **fixed)
        return found

    return run


def autoattack(job: Job, settings: Mapping[str, Any]) -> Tensor:
    from pyautoattack import AutoAttack
    from robustness import untouched

    with untouched(job.model, job.x):
        attack = AutoAttack(job.model, norm="L2", eps=job.eps, seed=job.seed, version="standard", device="cpu")
        moved: Tensor = attack.run_standard_evaluation(job.x, job.y, batch_size=BATCH)[0]
    return moved


def no_attack(job: Job, settings: Mapping[str, Any]) -> Tensor:
    return job.x


ATTACKS: dict[str, Callable[[Job, Mapping[str, Any]], Tensor]] = {
    "clean": no_attack,
    PGD: published_pgd,
    PAPER: ours("paper"),
    POWER: ours("power"),
    "torchattacks PGDL2": peer("torchattacks_pgd", step_over_eps=STEP),
    "ART PGD": peer("art_pgd", step_over_eps=STEP),
    "foolbox L2PGD": peer("foolbox_pgd", step_over_eps=STEP),
    "AutoAttack APGD-CE": peer("autoattack_apgd", loss="ce"),
    "AutoAttack APGD-DLR": peer("autoattack_apgd", loss="dlr"),
    "adv-lib APGD-CE": peer("advlib_apgd", loss="ce"),
    "adv-lib APGD-DLR": peer("advlib_apgd", loss="dlr"),
    AUTOATTACK: autoattack,
}
