"""`LoRaPGD`: the low-rank attack as a torchattacks attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

try:
    from torchattacks.attack import Attack
except ImportError as error:
    raise ImportError("LoRaPGD needs torchattacks; install it with: pip install 'art-lowrank[torchattacks]'") from error

from art_lowrank.attack import Attacked, Curve, Factors
from art_lowrank.attack.checks import check_images, check_labels, in_words_of_host, quoted
from art_lowrank.attack.curve import eps_stages, nested, radii_of, rank_stages
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import ModelOracle, sees_batch
from art_lowrank.attack.result import warn_of_dead

Found = TypeVar("Found", Attacked, Curve)
NORMS = {"L2": 2, "Linf": float("inf"), "nuc": "nuc", "group-nuc": "group-nuc"}


class LoRaPGD(Attack):
    r"""
    Low-rank projected gradient descent in the l2, l_inf or nuclear ball, rank per channel.

    [https://arxiv.org/abs/2410.12607] (method="paper"; method="power" is this package's own search)

    Distance Measure : L2, Linf, nuclear norm

    Arguments:
        model (nn.Module): model to attack.
        eps (float): radius of the ball, or a tensor with one an image. (Default: 0.5)
        rank (int, float or "full"): rank, share of min(H, W), or plain PGD. (Default: 0.1)
        steps (int): number of gradients. (Default: 20)
        alpha (float): length of every step; None for a schedule that falls linearly. (Default: None)
        random_start (bool): start from a random sketch drawn from `seed`; False for a fixed one. (Default: True)
        norm (str): "L2", "Linf", "nuc" or "group-nuc".
        loss, method, init, exact_rank, early_stop, seed, tile, use_budget, thorough, precision: as in
            `art_lowrank.lowrank_pgd`.

    Shape:
        - images: :math:`(N, C, H, W)`, each value in [0, 1].
        - labels: :math:`(N)`, each value a class number.
        - output: :math:`(N, C, H, W)`.

    Examples::
        >>> attack = LoRaPGD(model, eps=0.5, rank=3, steps=20)
        >>> adv_images = attack(images, labels)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        eps: float | Tensor = 0.5,
        rank: int | float | str = 0.1,
        steps: int = 20,
        alpha: float | None = None,
        random_start: bool = True,
        norm: str = "L2",
        loss: str = "auto",
        method: str = "power",
        init: str | Factors = "lora",
        exact_rank: bool = False,
        early_stop: bool = False,
        seed: int | None = 0,
        tile: int | None = None,
        use_budget: bool = False,
        thorough: bool = False,
        precision: str = "float32",
    ) -> None:
        super().__init__("LoRaPGD", model)
        self.eps = eps
        self.rank = rank
        self.steps = steps
        self.alpha = alpha
        self.random_start = random_start
        self.norm = norm
        self.loss = loss
        self.method = method
        self.exact_rank = exact_rank
        self.early_stop = early_stop
        self.seed = seed
        self.tile = tile
        self.use_budget = use_budget
        self.thorough = thorough
        self.precision = precision
        self.init = init
        self._work: Callable[[Tensor, Tensor | None], Any] = self._attack  # what a call does
        self._listener: Callable[[Any], None] | None = None  # while `attacked` or a curve runs
        self.supported_mode = ["default", "targeted"]
        self._options()

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """Attack; the model's modes and the normalisation state are as before, also after an exception."""
        modes = [(module, module.training) for module in self.model.modules()] if hasattr(self.model, "modules") else []
        applied = self._normalization_applied
        try:
            adversarial = super().__call__(inputs, labels, *args, **kwargs)
            return cast(Tensor, adversarial)
        finally:
            self._set_normalization_applied(applied)
            for module, training in modes:
                module.training = training

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The attacked images."""
        found = self._work(images, labels)
        if self._listener is not None:
            self._listener(found)
        return cast(Tensor, found.x)

    def attacked(self, images: Tensor, labels: Tensor | None = None) -> Attacked:
        """All there is to know of the attack: the images a call gives, success, factors, queries, dead gradients."""
        return self._heard(self._attack, images, labels)

    def rank_curve(self, images: Tensor, labels: Tensor, ranks: Sequence[int | float | str] | None = None) -> Curve:
        """Robust accuracy at ranks 1, 2, 4 ... full (or `ranks`) in one nested run, with the other settings."""

        def stages(options: Options, x: Tensor) -> list[Options]:
            return rank_stages(options, ranks, x)

        return self._heard(partial(self._curve, "rank", stages), images, labels)

    def eps_curve(self, images: Tensor, labels: Tensor, eps: Sequence[float]) -> Curve:
        """Robust accuracy at ascending radii in one nested run, with the other settings."""

        def stages(options: Options, x: Tensor) -> list[Options]:
            return eps_stages(options, radii_of(eps))

        return self._heard(partial(self._curve, "eps", stages), images, labels)

    def _heard(self, work: Callable[[Tensor, Tensor | None], Found], images: Tensor, labels: Tensor | None) -> Found:
        """What `work` finds when it runs as a call of the attack does, with the images the call gives."""
        heard: list[Found] = []
        self._work, self._listener = work, heard.append
        try:
            adversarial = self(images, labels)
        finally:
            self._work, self._listener = self._attack, None
        return replace(heard[0], x=adversarial)

    def _attack(self, images: Tensor, labels: Tensor | None) -> Attacked:
        images, labels, options = self._checked(images, labels)
        oracle = ModelOracle(self.get_logits, self.targeted)
        found = run(oracle, images, labels, options, batch_bound=sees_batch(self.model))
        warn_of_dead(found.dead, stacklevel=7)
        return found

    def _curve(
        self, along: str, stages: Callable[[Options, Tensor], list[Options]], images: Tensor, labels: Tensor | None
    ) -> Curve:
        images, labels, options = self._checked(images, labels)
        oracle, bound = ModelOracle(self.get_logits, self.targeted), sees_batch(self.model)
        curve = nested(oracle, images, labels, stages(options, images), along, batch_bound=bound)
        warn_of_dead(curve.dead, stacklevel=8)
        return curve

    def _checked(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Options]:
        options = self._options()
        if labels is None:
            raise ValueError("labels are None; give class numbers (of the targets in targeted mode)")
        check_images(images, options.clip)
        check_labels(labels, len(images))
        images, labels = images.detach().to(self.device), labels.detach().to(self.device)
        if self.targeted and len(images):
            labels = self.get_target_label(images, labels)
        return images, labels, options

    def _options(self) -> Options:
        """The settings in the core's words."""
        if not isinstance(self.norm, str) or self.norm not in NORMS:
            raise ValueError(f"norm is {quoted(self.norm)}; choose one of {', '.join(map(repr, NORMS))}")
        if not isinstance(self.random_start, bool):
            raise ValueError(f"random_start is {quoted(self.random_start)}; give True or False")
        if self.loss == "estimator":
            raise ValueError("loss='estimator' is the loss of an ART estimator; use loss='auto' or 'ce'")
        with in_words_of_host(step_size="alpha"):
            return Options(
                eps=self.eps,
                rank=self.rank,
                steps=self.steps,
                norm=NORMS[self.norm],
                loss=self.loss,
                method=self.method,
                targeted=self.targeted,
                exact_rank=self.exact_rank,
                early_stop=self.early_stop,
                seed=self.seed if self.random_start else 0,
                init=self.init,
                step_size=self.alpha,
                tile=self.tile,
                use_budget=self.use_budget,
                thorough=self.thorough,
                precision=self.precision,
            )
