"""An ART estimator as the attack's oracle, and its array layouts as images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.classification.pytorch import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import Tensor, nn

from art_lowrank.attack.loop import Watch
from art_lowrank.attack.losses import Loss, margin
from art_lowrank.attack.oracle import Judged, ModelOracle, Oracle, evaluating

Array = np.ndarray[Any, Any]


class Layout(NamedTuple):
    """How one sample of the host lies in memory, and how it is read as (channels, height, width)."""

    sample: tuple[int, ...]  # the host's shape of one sample
    image: tuple[int, ...]  # the same numbers as an image, in the host's order of axes
    channels_last: bool

    def images(self, x: Tensor) -> Tensor:
        """(n, *sample) as (n, c, h, w)."""
        x = x.reshape(len(x), *self.image)
        return x.movedim(-1, 1) if self.channels_last else x

    def samples(self, x: Tensor) -> Tensor:
        """(n, c, h, w) back as (n, *sample)."""
        return (x.movedim(1, -1) if self.channels_last else x).reshape(len(x), *self.sample)


def layout_of(sample: tuple[int, ...], channels_first: bool | None, image_shape: tuple[int, ...] | None) -> Layout:
    """The layout of samples of this shape; `image_shape`, (h, w) or with channels, reads flat samples as images."""
    if image_shape is None:
        if len(sample) not in (1, 3):
            raise ValueError(
                f"samples have shape {sample}; give image_shape=(channels, height, width) or (height, width)"
            )
        image_shape = (1, *sample) if len(sample) == 1 else sample
    if len(image_shape) not in (2, 3) or int(np.prod(image_shape)) != int(np.prod(sample)):
        raise ValueError(f"image_shape {image_shape} does not hold samples of shape {sample}")
    if len(image_shape) == 2:
        return Layout(sample, (1, *image_shape), False)
    return Layout(sample, tuple(image_shape), channels_first is False)


@dataclass(frozen=True)
class EstimatorOracle:
    """Any estimator with `loss_gradient`: it climbs its own loss, and margins come from `predict` when asked for."""

    estimator: Any
    layout: Layout
    targeted: bool

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        with torch.enable_grad():
            answer = self.estimator.loss_gradient(self.layout.samples(x).cpu().numpy(), y.cpu().numpy())
        found = torch.as_tensor(np.asarray(answer, dtype=np.float32))
        gradient = self.layout.images(found).to(x.device) * (-1 if self.targeted else 1)
        return Judged(gradient, None, None)

    def judge(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Margins of the outputs, logits or probabilities; None for what is no classifier."""
        if not isinstance(self.estimator, ClassifierMixin):
            return None
        outputs = self.estimator.predict(self.layout.samples(x).cpu().numpy(), batch_size=max(1, len(x)))
        found = margin(torch.as_tensor(np.asarray(outputs, dtype=np.float32)), y.argmax(1).cpu())
        return (-found if self.targeted else found).to(x.device)


@dataclass(frozen=True)
class TensorOracle(EstimatorOracle):
    """The same for a PyTorchClassifier whose preprocessing is torch: gradients stay tensors on their device."""

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        with torch.enable_grad():
            found = self.estimator.loss_gradient(x=self.layout.samples(x), y=y)
        return Judged(self.layout.images(found) * (-1 if self.targeted else 1), None, None)


def reaches_torch(estimator: Any) -> bool:
    """Whether the torch model can be differentiated through the estimator's whole preprocessing."""
    return isinstance(estimator, PyTorchClassifier) and bool(estimator.all_framework_preprocessing)


def logits_of(estimator: Any, layout: Layout) -> Callable[[Tensor], Tensor]:
    """From images to the classifier's outputs through its preprocessing, as one differentiable function."""
    outputs = outputs_of(estimator)
    return lambda x: outputs(layout.samples(x), False)


def outputs_of(estimator: Any) -> Callable[[Tensor, bool], Tensor]:
    """From samples, and whether this is for `fit`, to the classifier's outputs through its preprocessing."""
    plain = all(map(_changes_nothing, estimator.preprocessing_operations))

    def outputs(samples: Tensor, fit: bool) -> Tensor:
        if not plain:
            samples, _ = estimator._apply_preprocessing(samples, y=None, fit=fit, no_grad=False)
        found: Tensor = estimator._model(samples)[-1]
        return found

    return outputs


def _changes_nothing(operation: Any) -> bool:
    """ART's default preprocessing subtracts 0 and divides by 1, which on a small net is a good part of the time."""
    if not isinstance(operation, StandardisationMeanStdPyTorch):
        return False
    return bool(np.all(np.asarray(operation.mean) == 0) and np.all(np.asarray(operation.std) == 1))


def oracle_of(estimator: Any, layout: Layout, loss: str, targeted: bool) -> Oracle:
    """The strongest oracle that climbs this loss."""
    if loss != "estimator":
        return ModelOracle(logits_of(estimator, layout), targeted)
    return (TensorOracle if reaches_torch(estimator) else EstimatorOracle)(estimator, layout, targeted)


@contextmanager
def undisturbed(estimator: Any) -> Iterator[None]:
    """The estimator's torch module, if it has one, in evaluation mode and without parameter gradients; then as it was.

    `loss_gradient` would otherwise compute every parameter's gradient and leave modes and `.grad` changed; `predict`
    draws from torch's global random state.
    """
    module = getattr(estimator, "model", None)
    if not isinstance(module, nn.Module):
        yield
        return
    wrapper = getattr(estimator, "_model", module)
    before = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    with torch.random.fork_rng(devices=[]), evaluating(wrapper if isinstance(wrapper, nn.Module) else module):
        try:
            for parameter, _, _ in before:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, required, gradient in before:
                parameter.requires_grad_(required)
                parameter.grad = gradient


def watching(attack: Any, batch: int, layout: Layout) -> Watch | None:
    """What ART's summary writer, if the attack has one, is told at every step of a batch."""
    writer, estimator = attack.summary_writer, attack.estimator
    if writer is None:
        return None

    def tell(step: int, gradient: Tensor, x: Tensor, y: Tensor) -> None:
        labels = torch.nn.functional.one_hot(y, estimator.nb_classes).float() if y.ndim == 1 else y
        writer.update(
            batch_id=batch,
            global_step=step,
            grad=layout.samples(gradient).cpu().numpy(),
            patch=None,
            estimator=estimator,
            x=layout.samples(x).cpu().numpy(),
            y=labels.cpu().numpy(),
            targeted=attack.targeted,
        )

    return tell
