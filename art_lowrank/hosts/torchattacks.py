"""`LoRaPGD`: the low-rank attack as a torchattacks attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

try:
    from torchattacks.attack import Attack
except ImportError as error:
    raise ImportError("LoRaPGD needs torchattacks; install it with: pip install 'art-lowrank[torchattacks]'") from error

from art_lowrank.attack import Attacked, Factors
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options, check_images, check_labels, in_words_of_host, quoted
from art_lowrank.attack.oracle import ModelOracle, sees_batch
from art_lowrank.attack.result import warn_of_dead

NORMS = {"L2": 2}


class LoRaPGD(Attack):
    r"""
    Low-rank projected gradient descent in the l2 ball, rank per channel.

    [https://arxiv.org/abs/2410.12607] (method="paper"; method="power" is this package's own search)

    Distance Measure : L2

    Arguments:
        model (nn.Module): model to attack.
        eps (float): radius of the ball, or a tensor with one an image. (Default: 0.5)
        rank (int, float or "full"): rank, share of min(H, W), or plain PGD. (Default: 0.1)
        steps (int): number of gradients. (Default: 20)
        alpha (float): length of every step; None for a schedule that falls linearly. (Default: None)
        random_start (bool): start from a random sketch drawn from `seed`; False for a fixed one. (Default: True)
        norm (str): "L2".
        loss, method, init, exact_rank, early_stop, seed: as in `art_lowrank.lowrank_pgd`.

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
        self.init = init
        self._listener: Callable[[Attacked], None] | None = None  # while `attacked` runs
        self.supported_mode = ["default", "targeted"]
        self._options()

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """Attack; the model's modes and the normalisation state are as before, also after an exception."""
        modes = [(module, module.training) for module in self.model.modules()] if hasattr(self.model, "modules") else []
        applied = self._normalization_applied
        try:
            adversarial: Tensor = super().__call__(inputs, labels, *args, **kwargs)
            return adversarial
        finally:
            self._set_normalization_applied(applied)
            for module, training in modes:
                module.training = training

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The attacked images."""
        found = self._attack(images, labels)
        if self._listener is not None:
            self._listener(found)
        return found.x

    def attacked(self, images: Tensor, labels: Tensor | None = None) -> Attacked:
        """All there is to know of the attack: the images a call gives, success, factors, queries, dead gradients."""
        heard: list[Attacked] = []
        self._listener = heard.append
        try:
            adversarial = self(images, labels)
        finally:
            self._listener = None
        return replace(heard[0], x=adversarial)

    def _attack(self, images: Tensor, labels: Tensor | None) -> Attacked:
        options = self._options()
        if labels is None:
            raise ValueError("labels are None; give class numbers (of the targets in targeted mode)")
        check_images(images, options.clip)
        check_labels(labels, len(images))
        images, labels = images.detach().to(self.device), labels.detach().to(self.device)
        if self.targeted and len(images):
            labels = self.get_target_label(images, labels)
        oracle = ModelOracle(self.get_logits, self.targeted)
        found = run(oracle, images, labels, options, batch_bound=sees_batch(self.model))
        warn_of_dead(found.dead, stacklevel=6)
        return found

    def _options(self) -> Options:
        """The settings in the core's words."""
        if not isinstance(self.norm, str) or self.norm not in NORMS:
            raise ValueError(f"norm is {quoted(self.norm)}; this version attacks in the l2 ball, norm='L2'")
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
            )
