"""Adversarial training from stored perturbations: the next attack on an image starts where the last one ended.

After "Efficient Adversarial Training with Transferable Adversarial Examples" (arXiv 1912.11969), which keeps images as
they are; here a perturbation is kept as low-rank factors, whatever images it is added to are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from os import PathLike

import torch
from torch import Tensor

from art_lowrank.attack.balls import per_image, placed
from art_lowrank.attack.checks import check_clip, check_count, check_images, is_whole, quoted
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.norms import L2, Linf
from art_lowrank.attack.power import climbed
from art_lowrank.training.adversaries import Logits, boxed, direction, inside, is_linf, lengths, loss_gradient, noise
from art_lowrank.training.chance import normal
from art_lowrank.training.moves import Place, Size, is_size
from art_lowrank.training.store import ANY_UNIT, PerturbationStore


@dataclass(frozen=True)
class WarmStart:
    """How to train from stored perturbations.

    rank        of what is stored: None is 3 for l2 and 5 for l_inf, less for tiny images; "full" keeps it whole
    steps       gradients an image before the weights' own; 0: that one moves the stored perturbation as well, so the
                images ask for a gradient, and must not be detached before the loss
    length      of a step, in radii
    low_rank    train on the low-rank perturbation itself, moved by block power steps (l2), instead of a full-rank step
                from it, of which the low-rank part is stored
    ramp        epochs over which the radius rises from 0
    reset       forget what is stored every so many epochs
    path        a folder for the store; None: that of the checkpoints, else memory
    frame       height and width of images before augmentation; None: what an `Indexed` data set says, or as shown
    limit       FGSM minus PGD accuracy from which training is said to overfit catastrophically
    fall_back   take two steps from then on
    """

    rank: int | str | None = None
    steps: int = 1
    length: float = 0.75
    low_rank: bool = False
    ramp: float = 0.0
    reset: int | None = None
    path: str | PathLike[str] | None = None
    frame: Size | None = None
    limit: float = 0.4
    fall_back: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible settings now."""
        check_count("steps", self.steps, 0)
        if self.rank not in (None, "full") and not (is_whole(self.rank) and int(self.rank) >= 1):
            raise ValueError(f"rank is {self.rank!r}; give a whole number, 'full', or None for 3 in l2 and 5 in l_inf")
        for name in ("length", "ramp", "limit"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not float(value) < float("inf"):
                raise ValueError(f"{name} is {value!r}; give a finite number")
        if self.length <= 0 or self.ramp < 0:
            raise ValueError(f"length is {self.length!r} and ramp {self.ramp!r}; give a length above 0, a ramp from 0")
        if self.reset is not None:
            check_count("reset", self.reset, 1)
        if self.frame is not None and not is_size(self.frame):
            raise ValueError(f"frame is {self.frame!r}; give (height, width)")
        if self.low_rank and (self.steps == 0 or self.rank == "full"):
            raise ValueError(f"low_rank=True needs a step and a rank, not steps={self.steps} and rank={self.rank!r}")


@dataclass(frozen=True)
class Warm:
    """An adversary that remembers: settings, a store, and the ball. `at` makes it one for the images of a batch."""

    store: PerturbationStore
    eps: float
    norm: float | str = 2
    settings: WarmStart = WarmStart()
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if isinstance(self.eps, bool) or not isinstance(self.eps, Real) or not 0 < self.eps < float("inf"):
            raise ValueError(f"eps is {quoted(self.eps)}; give a finite number above 0")
        check_clip(self.clip)
        if not isinstance(self.store, PerturbationStore) or not isinstance(self.settings, WarmStart):
            kinds = f"{type(self.store).__name__} and {type(self.settings).__name__}"
            raise ValueError(f"store and settings are {kinds}; give a PerturbationStore and a WarmStart")
        if is_linf(self.norm) and self.settings.low_rank:
            raise ValueError("low_rank=True trains on too weak an attack in l_inf; use it with norm=2, or leave it out")
        if self.settings.low_rank and self.store.dense:
            raise ValueError("low_rank=True needs factors, and the store keeps whole perturbations; give it a rank")
        if self.store.unit not in (ANY_UNIT, unit_of(self.norm)):
            raise ValueError(
                f"the store's unit is {self.store.unit!r}, the attack's {unit_of(self.norm)!r}; make another"
            )

    def begin(self, epoch: int) -> None:
        """Before the first batch of an epoch, whose number is given."""
        reset = self.settings.reset
        self.store.begin(epoch, forget=reset is not None and epoch % reset == 0)

    def at(self, place: Place) -> At:
        """The attack on the images at these places."""
        return At(self, place, self.radius(len(place.indices), place.done))

    def radius(self, images: int, done: int | None = None) -> float:
        """The radius for so many images more; `done` counts them and all before in the epoch, where somebody does."""
        if not self.settings.ramp:
            return self.eps
        epochs = (
            self.store.progress + images / self.store.held if done is None else self.store.epoch + done / self.store.n
        )
        return self.eps * min(1.0, epochs / self.settings.ramp)


@dataclass(frozen=True)
class At:
    """The attack on the images of one batch, from what is stored of them; what it finds is stored."""

    warm: Warm
    place: Place
    eps: float

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        check_images(x, self.warm.clip)
        if self.warm.settings.low_rank:
            return self._low_rank(logits, x, y, number)
        delta = self._start(x, number)
        if self.warm.settings.steps == 0:
            return self._piggyback(x, delta)
        for _ in range(self.warm.settings.steps):
            delta = self._stepped(x, delta, loss_gradient(logits, self._images(x, delta), y))
        self._save(delta)
        return self._images(x, delta)

    def _piggyback(self, x: Tensor, delta: Tensor) -> Tensor:
        """Images whose gradient, when somebody's backward pass finds it, moves what is stored."""
        images = self._images(x, delta).requires_grad_()
        images.register_hook(lambda gradient: self._save(self._stepped(x, delta, gradient)))
        return images

    def _low_rank(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        factors = self._factors(x, number)
        for _ in range(self.warm.settings.steps):
            gradient = loss_gradient(logits, self._images(x, factors.dense()), y)
            pace = self.warm.settings.length / lengths(gradient).flatten()
            factors = climbed(factors, gradient, pace, 1, None)
            factors = factors.scaled(1 / lengths(factors.right).flatten())
        self._save(factors)
        return self._images(x, factors.dense())

    def _start(self, x: Tensor, number: int) -> Tensor:
        """What is stored, in the ball of radius 1 and in l2 on its sphere; noise where there is nothing."""
        found, norm = self._loaded(x).dense(), self.warm.norm
        start, blank = inside(found, norm) if is_linf(norm) else direction(found, norm), _blank(found)
        return torch.where(blank, noise(x, norm, number, self.place.indices), start) if bool(blank.any()) else start

    def _factors(self, x: Tensor, number: int) -> Factors:
        """The same as factors."""
        found = self._loaded(x)
        blank = _blank(found.left) | _blank(found.right)
        if bool(blank.any()):
            rows = self.place.indices
            drawn = (normal(rows, tuple(part.shape[1:]), number, 1 + k, part) for k, part in enumerate(found))
            found = Factors(*(torch.where(blank, new, old) for new, old in zip(drawn, found, strict=True)))
        return found.scaled(1 / lengths(found.dense()).flatten())

    def _loaded(self, x: Tensor) -> Factors:
        store, (indices, moves, _) = self.warm.store, self.place
        height, width = x.shape[-2:]
        if moves is None and tuple(x.shape[1:]) != store.shape:
            raise ValueError(
                f"images are {tuple(x.shape[1:])}, the store's {store.shape} (channels, height, width); make a store "
                "for these, or give the moves between them"
            )
        if len(indices) != len(x):
            raise ValueError(f"{len(x)} images came with {len(indices)} indices; give one each")
        left, right = store.load(indices, moves, (height, width))
        return Factors(left.to(x), right.to(x))

    def _stepped(self, x: Tensor, delta: Tensor, gradient: Tensor) -> Tensor:
        """One step, then ball and box."""
        norm, settings = self.warm.norm, self.warm.settings
        delta = inside(delta + settings.length * direction(gradient, norm), norm)
        return (self._images(x, delta) - x) / self.eps

    def _images(self, x: Tensor, delta: Tensor) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):  # whose rounding can leave the ball
            ball = Linf() if is_linf(self.warm.norm) else L2()
            radius = torch.tensor(self.eps, device=x.device)
            return ball.fit(x, self.eps * delta.float(), radius, placed(self.warm.clip, delta.float()))[0]
        return boxed(x + self.eps * delta, self.warm.clip)

    def _save(self, found: Tensor | Factors) -> None:
        self.warm.store.save(self.place.indices, found, self.place.moves)


def unit_of(norm: float | str) -> str:
    """What a store for this norm is relative to."""
    return "linf radius" if is_linf(norm) else "l2 radius"


def _blank(values: Tensor) -> Tensor:
    """Images for which nothing is stored, (n, 1, 1, 1)."""
    return per_image(values.flatten(1).abs().amax(1) == 0)
