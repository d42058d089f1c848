"""What `LowRankTrainer` refuses, each in one line."""

from __future__ import annotations

from typing import Any

import torch
from art.defences.trainer import Trainer
from art.estimators.classification.pytorch import PyTorchClassifier
from torch import Tensor

from art_lowrank.hosts.art_oracle import reaches_torch
from art_lowrank.weights.convert import check_keep


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


def check_distributed(distributed: bool, trainer: Trainer | None) -> None:
    """True or False, and our own loop."""
    if not isinstance(distributed, bool):
        raise ValueError(f"distributed is {distributed!r}; give True or False")
    if distributed and trainer is not None:
        raise ValueError(f"{type(trainer).__name__} trains in one process; leave distributed out")


def check_scheduler(scheduler: Any, optimizer: Any) -> None:
    """Something that steps, and steps this optimizer."""
    if scheduler is not None and not callable(getattr(scheduler, "step", None)):
        raise ValueError(f"scheduler is {scheduler!r}; give a torch scheduler of the classifier's optimizer")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("the scheduler was made for another optimizer; make it with classifier.optimizer")


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
