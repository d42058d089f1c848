"""Robust accuracy against rank, or against eps, in one nested run: what one stage finds, the next starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box, box_rows, per_image
from art_lowrank.attack.checks import amounts, check_images, check_labels, check_rank, quoted, spread_mask
from art_lowrank.attack.factors import Factors, resolve_rank
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import ModelOracle, Oracle, evaluating, expecting, sees_batch
from art_lowrank.attack.result import Queries, warn_of_dead
from art_lowrank.attack.searches import name_of, resolved

NEAR = 0.01  # the effective rank is the smallest whose robust accuracy is within one point of full rank's
NEXT_STEP = 6.0  # first step of the stages after the first, in units of eps


@dataclass(frozen=True, repr=False)
class Curve:
    """Where on the way up every image breaks. Accuracy falls along the curve by construction."""

    along: str  # "rank" or "eps"
    values: tuple[float, ...]  # the ranks or radii tried, ascending
    breaking: Tensor  # (n,) the smallest value that broke the image; 0: misclassified as it is; inf: none did
    x: Tensor  # the images that broke it; for the others the last attempt
    queries: Queries  # over all stages
    dead: Tensor  # not broken, and a gradient was zero or not finite at some stage
    attack: str
    seed: int  # the seed used, also where None was given

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified right before the attack (of a targeted one: not yet as the target)."""
        return self._share_above(0)

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Robust accuracy at every value."""
        return tuple(map(self._share_above, self.values))

    @property
    def effective_rank(self) -> int:
        """The smallest rank within one point of the last rank's robust accuracy."""
        if self.along != "rank":
            raise ValueError(f"this is a curve over {self.along}; only a curve over ranks has an effective rank")
        if not len(self.breaking):
            raise ValueError("a curve of no images has no effective rank")
        last = self.accuracy[-1]
        return next(int(v) for v, share in zip(self.values, self.accuracy, strict=True) if share <= last + NEAR + 1e-9)

    def __repr__(self) -> str:
        points = ", ".join(f"{v:g}: {share:.1%}" for v, share in zip(self.values, self.accuracy, strict=True))
        gradients = float(self.queries.gradients.double().mean()) if len(self.breaking) else 0.0
        return (
            f"Curve({self.attack}, {len(self.breaking)} images, clean {self.clean_accuracy:.1%}, "
            f"{self.along} {points}, {gradients:.1f} gradients an image)"
        )

    def _share_above(self, value: float) -> float:
        return float((self.breaking > value).double().mean()) if len(self.breaking) else float("nan")

    @classmethod
    def joined(cls, parts: Sequence[Curve]) -> Curve:
        """The curves of consecutive batches as one."""
        return replace(
            parts[0],
            breaking=torch.cat([part.breaking for part in parts]),
            x=torch.cat([part.x for part in parts]),
            queries=Queries(*map(torch.cat, zip(*(part.queries for part in parts), strict=True))),
            dead=torch.cat([part.dead for part in parts]),
        )


def rank_curve(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    ranks: Sequence[int | float | str] | None = None,
    steps: int = 20,
    norm: float | str = 2,
    loss: str = "auto",
    targeted: bool = False,
    seed: int | None = 0,
    clip: Box = UNIT_BOX,
    mask: Tensor | None = None,
    exact_rank: bool = False,
    precision: str = "float32",
) -> Curve:
    """Robust accuracy at ranks 1, 2, 4 ... full (or `ranks`), and the smallest rank that breaks each image.

    The first rank gets `steps` gradients an image, every further one half as many, on the images that still hold, from
    the perturbations the rank before has found: steps=20 is thorough, steps=10 fast.
    """
    options = Options(
        eps=eps, steps=steps, norm=norm, loss=loss, targeted=targeted, seed=seed, clip=clip, mask=mask,
        exact_rank=exact_rank, precision=precision,
    )  # fmt: skip
    return _curve_of(model, x, y, options, "rank", lambda: rank_stages(options, ranks, x))


def eps_curve(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float],
    rank: int | float | str = 0.1,
    steps: int = 20,
    norm: float | str = 2,
    loss: str = "auto",
    targeted: bool = False,
    seed: int | None = 0,
    clip: Box = UNIT_BOX,
    mask: Tensor | None = None,
    exact_rank: bool = False,
    precision: str = "float32",
) -> Curve:
    """Robust accuracy at ascending radii and one rank, and the smallest radius that breaks each image."""
    radii = radii_of(eps)
    options = Options(
        eps=radii[-1], rank=rank, steps=steps, norm=norm, loss=loss, targeted=targeted, seed=seed, clip=clip, mask=mask,
        exact_rank=exact_rank, precision=precision,
    )  # fmt: skip
    return _curve_of(model, x, y, options, "eps", lambda: eps_stages(options, radii))


def _curve_of(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    options: Options,
    along: str,
    stages: Callable[[], list[Options]],
) -> Curve:
    check_images(x, options.clip)
    check_labels(y, len(x))
    if options.loss == "estimator":
        raise ValueError("loss='estimator' is the loss of an ART estimator; use loss='auto' or 'ce'")
    with evaluating(model):
        oracle = ModelOracle(model, options.targeted)
        curve = nested(oracle, x, y, stages(), along, batch_bound=sees_batch(model))
    warn_of_dead(curve.dead, stacklevel=4)
    return curve


def rank_stages(options: Options, ranks: Sequence[int | float | str] | None, x: Tensor) -> list[Options]:
    """The settings of every rank, ascending: the caller's, or the powers of two and full rank."""
    full = min(x.shape[2:])
    asked = [*(2**k for k in range(full.bit_length()) if 2**k < full), full] if ranks is None else ranks
    if isinstance(asked, str) or not isinstance(asked, Iterable) or not (asked := list(asked)):
        raise ValueError(f"ranks is {quoted(ranks)}; give at least one, such as [1, 2, 4, 'full'], or None")
    for rank in asked:
        check_rank(rank)
    found = sorted({resolve_rank(rank, *x.shape[2:]) for rank in asked})
    return _warm([replace(options, rank=rank) for rank in found])


def eps_stages(options: Options, radii: Sequence[float]) -> list[Options]:
    """The settings of every radius, ascending."""
    return _warm([replace(options, eps=radius) for radius in radii])


def radii_of(eps: Any) -> list[float]:
    """Ascending radii from any sequence of numbers > 0."""
    try:
        radii = sorted({float(radius) for radius in eps})
    except (TypeError, ValueError):
        raise ValueError(f"eps is {quoted(eps)}; give some radii, such as [0.25, 0.5, 1.0]") from None
    if not radii or not all(0 < radius < float("inf") for radius in radii):
        raise ValueError(f"eps is {quoted(eps)}; give at least one radius, all finite and > 0")
    return radii


def _warm(stages: list[Options]) -> list[Options]:
    """The first stage as it is, every later one with half the steps; broken images leave all of them."""
    first = stages[0]
    if first.method in ("paper", "frank-wolfe") or first.ball == "group-nuc":
        raise ValueError(
            f"norm={first.norm!r} with method={first.method!r} cannot start from what the stage before has found; "
            "a curve needs norm=2, inf or 'nuc' with method='power'"
        )
    steps, pace = (first.steps + 1) // 2, NEXT_STEP if first.ball == "2" else None
    seed = first.drawn_seed()
    stages = [replace(stage, early_stop=True, seed=seed) for stage in stages]
    return [stages[0], *(replace(stage, steps=steps, first_step=pace) for stage in stages[1:])]


def nested(
    oracle: Oracle, x: Tensor, y: Tensor, stages: list[Options], along: str, *, batch_bound: bool = False
) -> Curve:
    """Every stage on the images that no stage before has broken, from what the stage before has found."""
    n, device = len(x), x.device
    x, y = x.detach(), y.to(device) if y.is_floating_point() else y.to(device, torch.long)
    wrong = _reached(oracle, x, y)
    breaking = torch.where(wrong, 0.0, torch.inf)
    best, found = x.clone(), None
    forwards, gradients = (
        torch.ones(n, dtype=torch.long, device=device),
        torch.zeros(n, dtype=torch.long, device=device),
    )
    dead = torch.zeros(n, dtype=torch.bool, device=device)
    rows = torch.arange(n, device=device) if batch_bound else (~wrong).nonzero().flatten()
    for before, stage in zip([None, *stages], stages, strict=False):
        if not len(rows):
            break
        if found is not None and before is not None and along == "eps":
            found = found.scaled(torch.full((len(rows),), stage.eps / before.eps, device=device))
        part = _sliced(stage, rows, x)
        part = part if found is None else replace(part, init=found)
        attacked = run(oracle, x[rows], y[rows], part, batch_bound=batch_bound)
        holding = breaking[rows] == torch.inf
        breaking[rows] = torch.where(holding & attacked.success, float(getattr(stage, along)), breaking[rows])
        best[rows] = torch.where(per_image(holding), attacked.x, best[rows])
        forwards[rows] += attacked.queries.forwards
        gradients[rows] += attacked.queries.gradients
        dead[rows] |= attacked.dead
        kept = torch.ones_like(holding) if batch_bound else ~attacked.success
        rows, found = rows[kept], attacked.factors.rows(kept)
    values = tuple(float(getattr(stage, along)) for stage in stages)
    dead &= breaking == torch.inf
    return Curve(
        along, values, breaking, best, Queries(forwards, gradients), dead, _names(stages, x), stages[0].drawn_seed()
    )


def _names(stages: list[Options], x: Tensor) -> str:
    """What the attacks of the stages are called, each once."""
    ranks = [resolve_rank(stage.rank, *x.shape[2:]) for stage in stages]
    names = [name_of(resolved(stage, rank, x), stage) for stage, rank in zip(stages, ranks, strict=True)]
    return ", ".join(dict.fromkeys(names))


def _reached(oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:
    """Where the goal is reached without any perturbation."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    margin = expecting(oracle, y).judge(x, y)
    if margin is None:
        raise ValueError("a curve needs a classifier, whose predictions tell when an image is broken")
    return margin > 0


def _sliced(options: Options, rows: Tensor, x: Tensor) -> Options:
    """The settings of some of the images."""
    eps = amounts("eps", options.eps, x, torch.promote_types(x.dtype, torch.float32), options.ball)
    wide = eps.dtype
    step = None if options.step_size is None else amounts("step_size", options.step_size, x, wide, options.ball)[rows]
    mask = None if options.mask is None else spread_mask(options.mask, x)[rows]
    init = options.init
    if isinstance(init, Factors):
        init = Factors(*(part.to(x.device)[rows] for part in init))
    return replace(
        options, eps=eps[rows], step_size=step, mask=mask, init=init, clip=box_rows(options.clip, rows, len(x))
    )
