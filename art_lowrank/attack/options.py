"""What the caller asked for, checked once, alone and together."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from art_lowrank.attack.balls import UNIT_BOX, Box
from art_lowrank.attack.checks import (
    check_amount,
    check_choice,
    check_clip,
    check_count,
    check_rank,
    is_whole,
    quoted,
)
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.losses import AUTO, LOSSES

METHODS = {  # of every norm; "power" is the best we have there
    "2": ("power", "paper"),
    "inf": ("power", "pattern", "alternating", "clipped-latent"),
    "nuc": ("power", "frank-wolfe"),
    "group-nuc": ("power", "frank-wolfe"),
}
PRECISIONS = ("float32", "bf16", "fp16")
FLAGS = ("targeted", "exact_rank", "early_stop", "use_budget", "thorough")


@dataclass(frozen=True)
class Options:
    """The settings of an attack, as `lowrank_pgd` documents them."""

    eps: Any
    rank: int | float | str = 0.1
    steps: int = 20
    norm: Any = 2
    loss: str = "auto"
    method: str = "power"
    targeted: bool = False
    exact_rank: bool = False
    early_stop: bool = False
    seed: int | None = 0
    init: str | Factors = "lora"
    restarts: int = 1
    clip: Box = UNIT_BOX
    mask: Tensor | None = None
    step_size: Any = None
    decay: float | None = None
    tile: int | None = None
    use_budget: bool = False
    thorough: bool = False
    precision: str = "float32"
    first_step: float | None = None  # of the schedule, in units of eps; None for the search's own

    def __post_init__(self) -> None:
        if self.ball not in METHODS:
            raise ValueError(f"norm is {quoted(self.norm)}; choose 2, inf, 'nuc' or 'group-nuc'")
        check_choice("method", self.method, METHODS[self.ball], " (for this norm)")
        if self.loss != AUTO:
            check_choice("loss", self.loss, ("auto", *LOSSES, "estimator"))
        check_choice("precision", self.precision, PRECISIONS)
        check_rank(self.rank)
        check_count("steps", self.steps, 0)
        check_count("restarts", self.restarts, 1)
        check_amount("eps", self.eps)
        if self.step_size is not None:
            check_amount("step_size", self.step_size, positive=True)
        if self.decay is not None and not (isinstance(self.decay, Real) and 0 <= self.decay < math.inf):
            raise ValueError(f"decay is {quoted(self.decay)}; give one number >= 0, or None")
        if self.tile is not None:
            check_count("tile", self.tile, 1)
        if self.seed is not None and not is_whole(self.seed):
            raise ValueError(f"seed is {quoted(self.seed)}; give a whole number, or None for a fresh one")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {quoted(getattr(self, name))}; give True or False")
        check_clip(self.clip)
        if not isinstance(self.init, Factors):
            check_choice("init", self.init, ("lora", "warm-up"))
        self._check_together()

    def _check_together(self) -> None:
        """Choices that are fine alone and impossible together."""
        if self.method != "paper" and isinstance(self.init, str) and self.init == "warm-up":
            raise ValueError(
                "init='warm-up' belongs to method='paper'; the others start from the first gradient anyway"
            )
        if self.method == "paper":
            self._refuse(
                "method='paper' is LoRa-PGD as published and has no {}; use method='power'",
                "step_size", "decay", "mask", "use_budget", "thorough",
            )  # fmt: skip
        if self.method in ("frank-wolfe", "clipped-latent") or self.ball == "group-nuc":
            self._refuse("Frank-Wolfe and the clipped latent have no {}; leave it out", "step_size", "decay")
        if self.method == "clipped-latent":
            self._refuse("a clipped latent has no rank, so no {}; use method='pattern'", "exact_rank")
        if self.ball != "2":
            self._refuse("{} is for norm=2", "use_budget")
        if self.ball == "group-nuc" and self.rank != "full":
            raise ValueError(f"rank is {self.rank!r}, but tiles of low rank make no image of low rank; use rank='full'")
        if self.ball != "group-nuc":
            self._refuse("{} is for norm='group-nuc'", "tile")
        if self.thorough and self.targeted:
            raise ValueError("thorough=True tries other target classes, and a targeted attack has one; leave one out")
        if self.loss == "estimator" and (self.thorough or self.precision != "float32"):
            raise ValueError(
                "loss='estimator' goes with thorough=False and precision='float32': an estimator has neither"
            )

    def _refuse(self, text: str, *names: str) -> None:
        for name in names:
            value = getattr(self, name)  # compared by identity: 0.0 == False, and a tensor has no one truth
            if value is not None and value is not False:
                raise ValueError(text.format(name))

    @property
    def ball(self) -> str:
        """The norm by its name: "2", "inf", "nuc" or "group-nuc"; anything else as it was quoted."""
        if isinstance(self.norm, Real) and not isinstance(self.norm, bool) and self.norm in (2, math.inf):
            return "2" if self.norm == 2 else "inf"
        return self.norm if isinstance(self.norm, str) and self.norm != "2" else quoted(self.norm)

    @property
    def climbed(self) -> str:
        """Name of the loss, with "auto" resolved: the schedule for ours, cross-entropy for `paper`, as published."""
        if self.loss != "auto":
            return self.loss
        return "ce" if self.method == "paper" else AUTO

    def drawn_seed(self) -> int:
        """The seed, or a fresh one where none was given."""
        return secrets.randbits(31) if self.seed is None else int(self.seed)
