"""The one seam between the attack and what it attacks: images in, input gradients and margins out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from art_lowrank.attack.losses import Loss, margin


class Judged(NamedTuple):
    """What an oracle says of a batch. A margin is positive where the attack has reached its goal."""

    gradient: Tensor  # of the loss to climb, (n, c, h, w)
    margin: Tensor | None  # (n,), or None from an oracle that gives none for free
    doubtful: Tensor | None  # (n,) bool: the outputs were not logits one can attack; None where all were


class Oracle(Protocol):
    """Anything that answers for a batch of images; `y` are labels, or targets of a targeted attack."""

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        """The gradient of the loss and the margin, from one forward and one backward pass."""

    def judge(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The margin alone, from one forward pass; None where there is no such thing."""


@dataclass(frozen=True)
class ModelOracle:
    """A torch model, or any callable from images to logits."""

    model: Callable[[Tensor], Tensor]
    targeted: bool = False
    highest: int = -1  # of the labels it will be asked about, see `expecting`
    scale: float = 1.0  # of the loss while its gradient is taken, against underflow in half precision

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        """Only the input's gradient is computed, none of the parameters'."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits, doubtful = self._logits(x)
            climbed = self._signed(loss(logits, y))
            total = climbed.sum() * self.scale if self.scale != 1 else climbed.sum()
            found = torch.autograd.grad(total, x, allow_unused=True)[0] if climbed.requires_grad else None
        gradient = torch.zeros_like(x) if found is None else found
        gradient = gradient / self.scale if self.scale != 1 else gradient
        with torch.no_grad():
            reached = climbed.detach() if loss is margin else self._signed(margin(logits, y))
        return Judged(gradient, reached, doubtful)

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self._signed(margin(self._logits(x)[0], y))

    def rivals(self, x: Tensor, y: Tensor, count: int) -> Tensor:
        """The best classes beside the label, best first, (n, count) or as many as there are."""
        with torch.no_grad():
            logits = self._logits(x)[0]
            others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
            return others.topk(min(count, logits.shape[1] - 1), dim=1).indices

    def _signed(self, values: Tensor) -> Tensor:
        return -values if self.targeted else values

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits in float32 or wider, and the rows that are none: not finite, or probabilities (their logs then)."""
        logits = self.model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the model returned {got} for {len(x)} images; it must return logits ({len(x)}, classes >= 2); "
                "wrap it in a module that does"
            )
        classes = logits.shape[1]
        if self.highest >= classes:
            raise ValueError(
                f"label {self.highest} is out of range: the model has {classes} classes, 0 to {classes - 1}"
            )
        slack = max(1e-4, torch.finfo(logits.dtype).eps) if logits.is_floating_point() else 1e-4
        return _as_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)), slack)


def expecting(oracle: Oracle, y: Tensor) -> Oracle:
    """The oracle, told once what labels will come, so that no step has to wait for a device to check them."""
    if not isinstance(oracle, ModelOracle) or not len(y):
        return oracle
    return replace(oracle, highest=int(y.max()))


def _as_logits(outputs: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    """The outputs, probabilities as their logarithms; and which rows are no logits: probabilities, or not finite."""
    with torch.no_grad():
        sums = outputs.sum(1)
        probabilities = ((sums - 1).abs() < slack) & (outputs >= 0).all(1)
        doubtful = probabilities | ~torch.isfinite(sums)
    return torch.where(probabilities.unsqueeze(1), outputs.clamp_min(1e-30).log(), outputs), doubtful


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode for the time of the block; every submodule's own mode comes back, also after an exception."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: object) -> Iterator[None]:
    """No gradients for the model's parameters in the block; those that had some have them again after it."""
    learning = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def sees_batch(model: object) -> bool:
    """Whether a batch normalisation of the model uses its batch: then an image's result depends on its neighbours."""
    modules = model.modules() if isinstance(model, nn.Module) else []
    return any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in modules)


def autocast_of(device: str) -> Callable[[], AbstractContextManager[object]]:
    """What brings the caller's autocast back for the model, where the attack itself runs without."""
    if not torch.is_autocast_enabled(device):
        return nullcontext
    return partial(torch.autocast, device, dtype=torch.get_autocast_dtype(device))
