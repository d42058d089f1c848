"""ART's samples, labels and generators as the training loop sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from art.data_generators import DataGenerator, NumpyDataGenerator, PyTorchDataGenerator
from art.utils import check_and_transform_label_format
from torch import Tensor
from torch.utils.data import DataLoader

from art_lowrank.hosts.art_oracle import Array
from art_lowrank.training.indexed import Indexed
from art_lowrank.training.loop import Batch
from art_lowrank.training.warm_loop import placed


class Samples(NamedTuple):
    """What is trained on: batches of an epoch, a first look, how many samples and batches an epoch has."""

    batches: Callable[[int], Iterable[Batch]]
    look: Callable[[], Tensor]
    shape: Callable[[], tuple[int, ...]]
    total: int
    per_epoch: int
    name: str
    watched: tuple[Tensor, Tensor] | None  # samples and class numbers that watch over a warm start


def labels_of(classifier: Any, y: Array) -> tuple[Tensor, Tensor]:
    """Labels as the classifier's loss wants them, and as class numbers."""
    one_hot = one_hot_of(classifier, y)
    return torch.from_numpy(np.asarray(classifier.reduce_labels(one_hot))), torch.from_numpy(one_hot.argmax(1))


def one_hot_of(classifier: Any, y: Array) -> Array:
    """Labels of shape (n,), (n, 1) or (n, classes) as one row of classes each."""
    given, classes = np.asarray(y), classifier.nb_classes
    numbers = given.ndim == 1 or given.shape[1] == 1
    if not numbers and given.shape[1] != classes:
        raise ValueError(f"y has labels of {given.shape[1]} classes; the classifier has {classes}")
    if numbers and given.size and not 0 <= given.min() <= given.max() < classes:
        raise ValueError(f"y holds labels {given.min()} to {given.max()}; the classifier has {classes} classes, from 0")
    found: Array = check_and_transform_label_format(given, nb_classes=classes)
    return found


def one_pass(generator: DataGenerator | DataLoader[Any]) -> Iterator[tuple[Any, ...]]:
    """The batches of one epoch, from the beginning of the generator's data where that can be had."""
    if isinstance(generator, DataLoader | PyTorchDataGenerator):
        yield from map(tuple, generator if isinstance(generator, DataLoader) else generator.iterator)
    elif isinstance(generator, NumpyDataGenerator):
        yield from map(tuple, generator)
    else:
        for _ in range(math.ceil(generator.size / generator.batch_size)):
            yield tuple(generator.get_batch())


def counted(generator: DataGenerator | DataLoader[Any]) -> tuple[int, int]:
    """Samples and batches of an epoch."""
    if isinstance(generator, DataLoader):
        return len(generator.dataset), len(generator)  # type: ignore[arg-type]
    if not isinstance(generator, DataGenerator):
        raise ValueError(f"the generator is a {type(generator).__name__}; give a DataGenerator of ART or a DataLoader")
    if generator.size is None:
        raise ValueError("the generator's size is None; give the number of samples of an epoch")
    return generator.size, math.ceil(generator.size / generator.batch_size)


def samples_of(classifier: Any, generator: DataGenerator | DataLoader[Any], warm: bool) -> Samples:
    """The batches of a generator; for a warm start with the places they name."""
    total, per_epoch = counted(generator)

    def batches(epoch: int) -> Iterator[Batch]:
        for batch in one_pass(generator):
            place = placed(batch)[2] if warm else None
            labels = labels_of(classifier, batch[1])[0].to(classifier.device)
            yield torch.from_numpy(np.asarray(batch[0], dtype=np.float32)).to(classifier.device), labels, place

    @cache  # some generators cannot go back to their beginning
    def first() -> Tensor:
        return torch.from_numpy(np.asarray(next(one_pass(generator))[0], dtype=np.float32))

    def shape() -> tuple[int, ...]:
        dataset = getattr(getattr(generator, "iterator", generator), "dataset", None)
        stored = dataset.size if isinstance(dataset, Indexed) else None
        shown = tuple(first().shape[1:])
        return shown if stored is None else (shown[0], *stored)

    return Samples(batches, first, shape, total, per_epoch, f"generator of {total}", None)
