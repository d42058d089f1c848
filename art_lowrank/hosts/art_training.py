"""ART's classifiers, attacks and trainers as the training loop sees them."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.data_generators import DataGenerator, NumpyDataGenerator, PyTorchDataGenerator
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerMadryPGD, Trainer
from art.estimators.classification.pytorch import PyTorchClassifier
from art.utils import check_and_transform_label_format
from torch import Tensor, nn

from art_lowrank.hosts.art_oracle import Array, outputs_of, reaches_torch
from art_lowrank.training.adversaries import Adversary, Logits
from art_lowrank.training.measure import measured
from art_lowrank.weights import factorize, ranks_of
from art_lowrank.weights.convert import check_keep

LOOK = 512  # images that decide about ranks


class ArtAdversary:
    """An evasion attack of ART as the inner attack of training, quiet."""

    def __init__(self, attack: EvasionAttack) -> None:
        self.attack = attack

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        with quiet(self.attack):
            found = self.attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())
        return torch.from_numpy(np.asarray(found, dtype=np.float32)).to(x)

    def __repr__(self) -> str:
        shown = {name: str(getattr(self.attack, name, None)) for name in self.attack.attack_params}
        quiet_ones = {"verbose", "batch_size", "summary_writer", "tensor_board"}
        settings = ", ".join(f"{name}={value}" for name, value in sorted(shown.items()) if name not in quiet_ones)
        return f"{type(self.attack).__name__}({settings})"


def adversary_of(attack: Any, classifier: Any) -> Adversary | None:
    """What the caller gave as `attack`, checked."""
    if attack is None:
        return None
    if isinstance(attack, EvasionAttack):
        if getattr(attack, "targeted", False):
            raise ValueError("the attack is targeted; in training it must go away from the label: targeted=False")
        if attack.estimator is not classifier:
            raise ValueError("the attack was made for another classifier; make it with the one that is trained")
        return ArtAdversary(attack)
    if not callable(attack):
        raise ValueError(f"attack is {attack!r}; give an ART evasion attack, Pgd(...) or SingleStep(...)")
    found: Adversary = attack
    return found


@contextmanager
def quiet(attack: Any) -> Iterator[None]:
    """No progress bar of the attack for the time of the block."""
    before = getattr(attack, "verbose", None)
    if before:
        attack.set_params(verbose=False)  # PGD hands it on to the attack inside
    try:
        yield
    finally:
        if before:
            attack.set_params(verbose=before)


def check_classifier(classifier: Any) -> None:
    """What the loop needs of a classifier."""
    if not isinstance(classifier, PyTorchClassifier):
        raise ValueError(
            f"the classifier is a {type(classifier).__name__}; low-rank training needs a PyTorchClassifier"
        )
    if classifier.optimizer is None:
        raise ValueError("Optimizer of classifier is currently None, but is required for low-rank training.")
    if not reaches_torch(classifier):
        raise ValueError("the classifier's preprocessing is not all torch; give it PyTorch defences, or none")


def check_settings(keep: float, tighten: float, seed: int) -> None:
    """Numbers that could never do."""
    check_keep(keep)
    if not 0 <= tighten <= 1:
        raise ValueError(f"tighten is {tighten!r}; give a share of all steps in [0, 1]")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; give a whole number of at least 0")


def check_trainer(trainer: Trainer | None, classifier: Any, method: str) -> None:
    """One of ART's trainers, for this classifier, that the method can live with."""
    if trainer is None:
        return
    if trainer.get_classifier() is not classifier:
        raise ValueError("the trainer was made for another classifier; make it with the one that is trained")
    if method == "dlrt" and hasattr(trainer, "_proxy_classifier"):
        raise ValueError(f"{type(trainer).__name__} needs ranks that stay; give method='condlr' instead of 'dlrt'")


def named(thing: object) -> str:
    """What tells an attack or a loss from another, in every process."""
    if isinstance(thing, FunctionType):
        return f"{thing.__module__}.{thing.__qualname__}"
    if isinstance(thing, nn.Module):  # a loss does not show its settings
        shown = {name: value for name, value in vars(thing).items() if isinstance(value, str | int | float)}
        return f"{thing!r} {sorted((name, value) for name, value in shown.items() if name != 'training')}"
    return repr(thing)


def logits_of(classifier: Any) -> Logits:
    """From samples to outputs through the preprocessing; in training mode with what it does in `fit`."""
    outputs = outputs_of(classifier)
    return lambda x: outputs(x, classifier.model.training)


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


def labels_of(classifier: Any, y: Array) -> tuple[Tensor, Tensor]:
    """Labels as the classifier's loss wants them, and as class numbers."""
    one_hot = one_hot_of(classifier, y)
    return torch.from_numpy(np.asarray(classifier.reduce_labels(one_hot))), torch.from_numpy(one_hot.argmax(1))


def inputs_of(classifier: Any, images: Tensor, seed: int) -> Callable[[], Tensor]:
    """Some of the images as the model sees them, made when asked for."""

    def look() -> Tensor:
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:LOOK]
        return torch.as_tensor(classifier._apply_preprocessing(images[chosen].numpy(), y=None, fit=False)[0])

    return look


def validation_of(
    classifier: Any, data: tuple[Array, Array] | None, adversary: Adversary | None
) -> Callable[[], dict[str, float]] | None:
    """What measures the model after every epoch, or None without validation data."""
    if data is None:
        return None
    images, (_, classes) = torch.from_numpy(np.asarray(data[0], np.float32)), labels_of(classifier, data[1])
    if not len(images) or len(images) != len(classes):
        raise ValueError(f"validation_data holds {len(images)} samples and {len(classes)} labels; give as many")
    logits = logits_of(classifier)
    return lambda: measured(classifier.model, logits, images, classes, adversary).shares()


def one_pass(generator: DataGenerator) -> Iterator[tuple[Array, Array]]:
    """The batches of one epoch, from the beginning of the generator's data where that can be had."""
    if isinstance(generator, PyTorchDataGenerator):
        for x, y, *_ in generator.iterator:
            yield x.numpy(), y.numpy()
    elif isinstance(generator, NumpyDataGenerator):
        yield from iter(generator)
    else:
        for _ in range(math.ceil(generator.size / generator.batch_size)):
            yield generator.get_batch()


def set_root(classifier: Any, model: nn.Module) -> None:
    """Exchange the whole module of a classifier: `set_params(model=...)` would break its wrapper."""
    if classifier.model is not model:
        classifier._model._model = model


def check_scheduler(scheduler: Any, optimizer: Any) -> None:
    """Something that steps, and steps this optimizer."""
    if scheduler is not None and not callable(getattr(scheduler, "step", None)):
        raise ValueError(f"scheduler is {scheduler!r}; give a torch scheduler of the classifier's optimizer")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("the scheduler was made for another optimizer; make it with classifier.optimizer")


def hand_over(trainer: Trainer, x: Array, y: Array, batch: int, epochs: int, scheduler: Any, rest: Any) -> None:
    """Let one of ART's trainers train, with a scheduler that steps once an epoch as it should."""
    check_scheduler(scheduler, trainer.get_classifier().optimizer)
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError(f"ReduceLROnPlateau needs a measurement, which {type(trainer).__name__} does not give it")
    asked = {"batch_size": batch, "nb_epochs": epochs, **rest}
    if scheduler is None:
        trainer.fit(x, y, **asked)
    elif isinstance(trainer, AdversarialTrainer | AdversarialTrainerMadryPGD):
        for _ in range(epochs):  # they hand a scheduler to `classifier.fit`, which steps it every batch
            trainer.fit(x, y, **{**asked, "nb_epochs": 1})
            scheduler.step()
    else:
        if "scheduler" not in inspect.signature(trainer.fit).parameters:
            raise ValueError(f"{type(trainer).__name__} has its own learning rates; leave scheduler out")
        trainer.fit(x, y, scheduler=_passing(scheduler), **asked)


def factorize_proxies(trainer: Trainer, model: nn.Module) -> None:
    """Proxies of AWP load the classifier's weights, so they need its ranks."""
    proxy = getattr(trainer, "_proxy_classifier", None)
    if proxy is not None and not ranks_of(proxy.model):
        set_root(proxy, factorize(proxy.model, ranks=ranks_of(model), optimizer=proxy.optimizer))


def _passing(scheduler: Any) -> Any:
    """Any scheduler in a class that ART's trainers accept: they ask for one that torch 2 no longer derives from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base: Any = torch.optim.lr_scheduler._LRScheduler

    class Passing(base):
        def __init__(self, step: Callable[[], None]) -> None:
            self.step = step

    return Passing(scheduler.step)


def check_sizes(images: Tensor, labels: Tensor) -> None:
    """As many labels as samples, and numbers that are finite."""
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"x holds {len(images)} samples and y {len(labels)} labels; give as many, and at least one")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("x holds NaN or infinite numbers; leave those samples out")


def check_course(batch_size: int, nb_epochs: int, patience: int | None, validated: bool) -> None:
    """Numbers of batches and epochs that can be."""
    for name, value in (("batch_size", batch_size), ("nb_epochs", nb_epochs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; give a whole number of at least 1")
    if patience is not None and not validated:
        raise ValueError(f"patience={patience} counts validations; give validation_data too, or leave patience out")
