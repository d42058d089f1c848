"""What is measured of a trained net: accuracy, shape, and, where a claim asks for them, the looks of `LOOKS`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from conditioning import relative_change
from layers import mean, measured
from tightness import tightness_of
from torch import Tensor, nn
from worlds import Split

from art_lowrank import lowrank_pgd
from art_lowrank.record import JSON, pack
from art_lowrank.weights import ranks_of

ITERATIONS, TARGETS = 50, 3  # of APGD, as in integration/training
MASKED, MARGIN = 200, 5.0  # images of that look, and the margin that logits are brought down to
POINTS = 10  # of the published evaluation: PGD with 10 steps of 1.25 eps / 10 on cross-entropy

Judged = dict[str, JSON]


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
