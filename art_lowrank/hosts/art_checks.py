"""What `LowRankPGD` checks and converts at ART's edge, with ART's exception types."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from art.estimators.classification.classifier import ClassifierMixin
from art.utils import check_and_transform_label_format, get_labels_np_array
from torch import Tensor

from art_lowrank.attack.balls import Box
from art_lowrank.attack.checks import is_whole
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.options import Options
from art_lowrank.hosts.art_oracle import Array, Layout


def check_art_types(attack: Any) -> None:
    """What ART's own PGD refuses, with the same exceptions: TypeError for kinds of numbers, else ValueError."""
    _check_amounts(attack.eps, attack.eps_step)
    if not is_whole(attack.num_random_init):
        raise TypeError(f"num_random_init is {attack.num_random_init!r}; give a whole number >= 0")
    if attack.num_random_init < 0:
        raise ValueError(f"num_random_init is {attack.num_random_init}; give a whole number >= 0")
    if attack.num_random_init > 1 and attack._summary_writer_arg:
        raise ValueError("a summary writer follows one run only; use num_random_init=0 or 1 with it")
    if not is_whole(attack.batch_size) or attack.batch_size < 1:
        raise ValueError(f"batch_size is {attack.batch_size!r}; give a whole number >= 1")
    for name in ("random_eps", "verbose"):
        if not isinstance(getattr(attack, name), bool):
            raise ValueError(f"{name} is {getattr(attack, name)!r}; give True or False")
    shape = attack.image_shape
    if shape is not None and not (
        isinstance(shape, tuple | list) and len(shape) in (2, 3) and all(is_whole(s) and s > 0 for s in shape)
    ):
        raise ValueError(f"image_shape is {shape!r}; give (height, width) or (channels, height, width)")


def check_one_radius(attack: Any) -> None:
    """A curve is read against its ranks or radii, so none may be drawn at random."""
    if attack.random_eps:
        raise ValueError("random_eps=True would draw a curve at a hidden radius; set random_eps=False")


def _check_amounts(eps: Any, eps_step: Any) -> None:
    given = {"eps": eps} if eps_step is None else {"eps": eps, "eps_step": eps_step}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real | np.ndarray):
            raise TypeError(f"{name} is {value!r}; give a number or an array")
    if len({isinstance(value, np.ndarray) for value in given.values()}) > 1:
        raise TypeError("eps and eps_step must be both numbers or both arrays")
    if isinstance(eps, np.ndarray) and isinstance(eps_step, np.ndarray) and eps.shape != eps_step.shape:
        raise ValueError(f"eps of shape {eps.shape} and eps_step of shape {eps_step.shape} must have one shape")


def as_float32(x: Any) -> Array:
    """Samples as a float32 array: arrays of any numbers, torch tensors, lists."""
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    try:
        inputs = np.require(np.asarray(x), np.float32, ["C", "W"])  # writeable: torch warns of others
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"inputs cannot be read as one array of numbers ({error}); give samples of equal shape"
        ) from None
    if inputs.ndim < 2:
        raise ValueError(f"inputs have shape {inputs.shape}; the first axis counts samples")
    return inputs


def broadcast(mask: Any, x: Array) -> Array:
    """The mask at the full shape of the samples, as bool."""
    given = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if given.dtype.kind not in "bfiu" or not np.isfinite(given).all() or (given < 0).any():
        raise ValueError("mask must hold numbers >= 0 or booleans; zero where nothing may change")
    try:
        return np.array(np.broadcast_to(given != 0, x.shape))
    except ValueError:
        raise ValueError(f"mask of shape {given.shape} does not broadcast to inputs of shape {x.shape}") from None


def checked_labels(y: Any, n: int, classes: int) -> Array:
    """Labels in one of ART's formats: (n,), (n, 1) or (n, classes)."""
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] not in (1, classes)):
        raise ValueError(f"labels have shape {labels.shape}; give ({n},), ({n}, 1) or one-hot ({n}, {classes})")
    if len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} samples; give one label a sample")
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        raise ValueError(f"labels are {labels.dtype}; give class numbers or one-hot rows")
    if labels.ndim == 1 or labels.shape[1] == 1:
        low, high = labels.min(), labels.max()
        if low < 0 or high >= classes or (labels != np.floor(labels)).any():
            raise ValueError(f"labels span {low} to {high}; give whole class numbers from 0 to {classes - 1}")
        return labels.astype(np.int64)
    return labels


def labels_of(attack: Any, x: Array, y: Any, loss: str) -> Tensor:
    """Class numbers for the attack's own losses; one-hot or soft labels, or raw targets, for the estimator's."""
    estimator = attack.estimator
    if y is None and attack.targeted:
        raise ValueError("Target labels `y` need to be provided for a targeted attack.")
    if not len(x):
        return torch.zeros(0, dtype=torch.long)
    if not isinstance(estimator, ClassifierMixin):
        if y is not None and len(y) != len(x):
            raise ValueError(f"{len(y)} targets for {len(x)} samples; give one a sample")
        return torch.as_tensor(estimator.predict(x) if y is None else np.asarray(y))
    if y is None:
        labels = get_labels_np_array(estimator.predict(x, batch_size=attack.batch_size))
    else:
        labels = checked_labels(y, len(x), estimator.nb_classes)
    labels = check_and_transform_label_format(labels, nb_classes=estimator.nb_classes)
    return torch.from_numpy(labels) if loss == "estimator" else torch.from_numpy(labels.argmax(1))


def clip_of(estimator: Any, layout: Layout) -> Box:
    """The estimator's clip values as the box of an image."""
    values = getattr(estimator, "clip_values", None)
    if values is None:
        return None
    low, high = (np.asarray(value, dtype=np.float32) for value in values)
    if low.size == 1 and high.size == 1:
        return float(low.reshape(())), float(high.reshape(()))
    bounds = [layout.images(torch.from_numpy(np.array(np.broadcast_to(b, layout.sample)))[None]) for b in (low, high)]
    return bounds[0], bounds[1]


def batch_of(options: Options, rows: slice, mask: Tensor | None) -> Options:
    """The options of some of the images."""
    init = options.init
    return replace(
        options,
        eps=options.eps[rows],
        step_size=None if options.step_size is None else options.step_size[rows],
        init=Factors(init.left[rows], init.right[rows]) if isinstance(init, Factors) else init,
        mask=mask,
    )
