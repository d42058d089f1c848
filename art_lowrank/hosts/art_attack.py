"""`LowRankPGD`: the low-rank attack as an evasion attack of the Adversarial Robustness Toolbox."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.config import ART_NUMPY_DTYPE
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from art.summary_writer import SummaryWriter, SummaryWriterDefault
from torch import Tensor
from tqdm.auto import tqdm

from art_lowrank.attack import Attacked, Curve, Factors
from art_lowrank.attack.checks import check_images
from art_lowrank.attack.curve import eps_stages, nested, radii_of, rank_stages
from art_lowrank.attack.loop import Watch
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import Oracle
from art_lowrank.attack.result import warn_of_dead
from art_lowrank.hosts.art_checks import as_float32, batch_of, broadcast, check_art_types, check_one_radius, labels_of
from art_lowrank.hosts.art_options import checked, options_of
from art_lowrank.hosts.art_oracle import Array, Layout, layout_of, oracle_of, reaches_torch, undisturbed, watching

Part = TypeVar("Part", Attacked, Curve)
logger = logging.getLogger(__name__)


class LowRankPGD(EvasionAttack):
    """
    Projected gradient descent whose perturbation has low rank in every channel, in the l2, l_inf or nuclear ball.

    | Paper link: https://arxiv.org/abs/2410.12607 (method="paper"); method="power" is this package's own search.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        "norm",
        "eps",
        "eps_step",
        "rank",
        "max_iter",
        "targeted",
        "num_random_init",
        "batch_size",
        "random_eps",
        "decay",
        "loss",
        "method",
        "init",
        "exact_rank",
        "early_stop",
        "image_shape",
        "seed",
        "tile",
        "use_budget",
        "thorough",
        "precision",
        "summary_writer",
        "verbose",
    ]
    _estimator_requirements = (BaseEstimator, LossGradientsMixin)

    def __init__(
        self,
        estimator: Any,
        *,
        norm: float | str = 2,
        eps: int | float | Array = 0.5,
        eps_step: int | float | Array | None = None,
        rank: int | float | str = 0.1,
        max_iter: int = 20,
        targeted: bool = False,
        num_random_init: int = 0,
        batch_size: int = 128,
        random_eps: bool = False,
        decay: float | None = None,
        loss: str = "auto",
        method: str = "power",
        init: str | Factors = "lora",
        exact_rank: bool = False,
        early_stop: bool = False,
        image_shape: tuple[int, ...] | None = None,
        seed: int | None = 0,
        tile: int | None = None,
        use_budget: bool = False,
        thorough: bool = False,
        precision: str = "float32",
        summary_writer: str | bool | SummaryWriter = False,
        verbose: bool = True,
    ) -> None:
        """
        Create a :class:`.LowRankPGD` instance.

        :param estimator: A trained estimator with loss gradients.
        :param norm: The norm of the adversarial perturbation over all channels: 2, np.inf, "nuc" or "group-nuc".
        :param eps: Largest norm of the perturbation: a number, or an array with one an image; for np.inf an array that
            broadcasts to the samples.
        :param eps_step: Length of every step, finite; `None` for a schedule that falls linearly.
        :param rank: Rank of every channel's perturbation: a whole number, a share of min(height, width), or "full".
        :param max_iter: Gradients an image.
        :param targeted: Whether `y` are classes to be reached.
        :param num_random_init: Number of runs, all but the first from random perturbations; 0 and 1 are one run.
        :param batch_size: Images attacked at once; results do not depend on it.
        :param random_eps: Draw the radius of every `generate` from a truncated normal on [0, eps], as ART's PGD does.
        :param decay: Momentum of the gradients; `None` for none.
        :param loss: "auto" (smooth margin, then margin, where the torch model can be reached; else the estimator's
            own), "margin", "smooth-margin", "ce", "dlr" or "estimator".
        :param method: "power" (ours, for every norm), "paper" (LoRa-PGD as published), for np.inf also "pattern",
            "alternating" and "clipped-latent", for the nuclear norms "frank-wolfe".
        :param init: "lora" (a random sketch), "warm-up" (for "paper": the SVD of one full-rank step), or factors.
        :param exact_rank: Whether the perturbation that is left after the clip values has the rank asked for.
        :param early_stop: Whether broken images leave the batch.
        :param image_shape: (height, width) of flat inputs, or with channels where the estimator has them.
        :param seed: Seed of the random sketch, the same for every image; `None` draws one for every `generate`.
        :param tile: Side of the tiles of "group-nuc"; `None` for an eighth of the shorter side.
        :param use_budget: Whether iterates are scaled until they are eps long after the clip values.
        :param thorough: Whether images that hold are attacked again towards their two best other classes.
        :param precision: "float32", or "bf16" or "fp16" to search under autocast and verify in float32.
        :param summary_writer: ART's TensorBoard writer: a bool, a path, or a writer.
        :param verbose: Show progress bars.
        """
        super().__init__(estimator=estimator)
        self.norm = norm
        self.eps = eps
        self.eps_step = eps_step
        self.rank = rank
        self.max_iter = max_iter
        self.targeted = targeted
        self.num_random_init = num_random_init
        self.batch_size = batch_size
        self.random_eps = random_eps
        self.decay = decay
        self.loss = loss
        self.method = method
        self.init = init
        self.exact_rank = exact_rank
        self.early_stop = early_stop
        self.image_shape = image_shape
        self.seed = seed
        self.tile = tile
        self.use_budget = use_budget
        self.thorough = thorough
        self.precision = precision
        self.verbose = verbose
        self._summary_writer_arg = summary_writer
        self._check_params()
        self.summary_writer = summary_writer  # not before all is checked: it may open files
        self._radii = np.random.default_rng(None if seed is None else int(seed) % 2**63)  # of random_eps

    def generate(self, x: Array, y: Array | None = None, **kwargs: Any) -> Array:
        """
        Generate adversarial samples and return them in an array of float32.

        :param x: Images in the estimator's layout, or flat ones with `image_shape`.
        :param y: Labels of shape (n,), (n, 1) or (n, classes); without, the estimator's own predictions.
        :param mask: Keyword `mask`: where the perturbation may be non-zero, broadcastable to `x`.
        :return: The adversarial samples.
        """
        attacked, layout = self._attack(x, y, kwargs.get("mask"))
        return layout.samples(attacked.x).cpu().numpy().astype(ART_NUMPY_DTYPE, copy=False)

    def generate_factors(self, x: Array, y: Array | None = None, **kwargs: Any) -> tuple[Array, Factors]:
        """The adversarial samples, and the factors of their perturbations."""
        attacked, layout = self._attack(x, y, kwargs.get("mask"))
        return layout.samples(attacked.x).cpu().numpy().astype(ART_NUMPY_DTYPE, copy=False), attacked.factors

    def generate_attacked(self, x: Array, y: Array | None = None, **kwargs: Any) -> Attacked:
        """All there is to know of the attack (success, queries, dead gradients ...), as torch tensors."""
        return self._attack(x, y, kwargs.get("mask"))[0]

    @property
    def summary_writer(self) -> SummaryWriter | None:
        """The summary writer."""
        return self._summary_writer

    @summary_writer.setter
    def summary_writer(self, given: str | bool | SummaryWriter) -> None:
        self._summary_writer_arg = given or False
        self._summary_writer = SummaryWriterDefault(given) if given and isinstance(given, bool | str) else given or None

    def set_params(self, **kwargs: Any) -> None:
        """
        Take in parameters and check them; where one is refused, all stay as they were.

        :param kwargs: Parameters named in `attack_params`.
        """
        before = {name: getattr(self, name) for name in kwargs if name in self.attack_params}
        try:
            super().set_params(**kwargs)
        except Exception:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def rank_curve(
        self, x: Array, y: Array | None = None, ranks: Sequence[int | float | str] | None = None, **kwargs: Any
    ) -> Curve:
        """Robust accuracy at ranks 1, 2, 4 ... full (or `ranks`) in one nested run, with the other settings."""
        return self._curve(x, y, kwargs.get("mask"), "rank", lambda part, images: rank_stages(part, ranks, images))

    def eps_curve(self, x: Array, y: Array | None = None, *, eps: Sequence[float], **kwargs: Any) -> Curve:
        """Robust accuracy at ascending radii in one nested run, with the other settings."""
        return self._curve(x, y, kwargs.get("mask"), "eps", lambda part, images: eps_stages(part, radii_of(eps)))

    def _curve(
        self, x: Array, y: Array | None, mask: Array | None, along: str, stages: Callable[..., list[Options]]
    ) -> Curve:
        def part_of(oracle: Oracle, images: Tensor, labels: Tensor, options: Options, watch: Watch | None) -> Curve:
            return nested(oracle, images, labels, stages(options, images), along)

        check_one_radius(self)
        curve = Curve.joined(self._over_batches(x, y, mask, part_of)[0])
        warn_of_dead(curve.dead, stacklevel=4)
        return curve

    def _attack(self, x: Array, y: Array | None, mask: Array | None) -> tuple[Attacked, Layout]:
        """The result as torch tensors, and how to read its images as the caller's samples."""

        def part_of(oracle: Oracle, images: Tensor, labels: Tensor, options: Options, watch: Watch | None) -> Attacked:
            return run(oracle, images, labels, options, watch=watch)

        parts, layout = self._over_batches(x, y, mask, part_of)
        attacked = Attacked.joined(parts)
        warn_of_dead(attacked.dead, stacklevel=4)
        logger.info("Success rate of attack: %.2f%%", 100 * float(attacked.success.float().mean()) if len(x) else 0.0)
        return attacked, layout

    def _options(self, x: Array, layout: Layout) -> Options:
        return options_of(self, x, layout)

    def _over_batches(
        self, x: Array, y: Array | None, mask: Array | None, part_of: Callable[..., Part]
    ) -> tuple[list[Part], Layout]:
        """What `part_of` makes of every batch, and how to read images as the caller's samples."""
        self._check_params()
        inputs = as_float32(x)
        layout = layout_of(inputs.shape[1:], getattr(self.estimator, "channels_first", None), self.image_shape)
        if self.image_shape is None and inputs.ndim == 2:
            warnings.warn(
                f"rows of {inputs.shape[1]} numbers are attacked as matrices of one row, which is plain PGD; "
                "image_shape=(height, width) makes the attack low-rank",
                stacklevel=4,
            )
        options = self._options(inputs, layout)
        masks = None if mask is None else layout.images(torch.from_numpy(broadcast(mask, inputs)))
        oracle = oracle_of(self.estimator, layout, options.loss, self.targeted)
        device = torch.device(getattr(self.estimator, "device", "cpu"))
        images = layout.images(torch.from_numpy(inputs))
        check_images(images, options.clip)
        with undisturbed(self.estimator):
            labels, parts = labels_of(self, inputs, y, options.loss), []
            starts = range(0, max(1, len(inputs)), self.batch_size)
            for number, start in enumerate(
                tqdm(starts, desc="LowRankPGD - Batches", leave=False, disable=not self.verbose)
            ):
                rows = slice(start, start + self.batch_size)
                part = batch_of(options, rows, None if masks is None else masks[rows])
                watch = watching(self, number, layout)
                parts.append(part_of(oracle, images[rows].to(device), labels[rows].to(device), part, watch))
        if self.summary_writer is not None:
            self.summary_writer.reset()
        return parts, layout

    def _check_params(self) -> None:
        super()._check_params()
        check_art_types(self)
        loss = checked(self).loss
        if loss not in ("auto", "estimator") and not reaches_torch(self.estimator):
            raise ValueError(
                f"loss={loss!r} needs a PyTorchClassifier whose preprocessing is torch, not this "
                f"{type(self.estimator).__name__}; use loss='auto' or 'estimator'"
            )
