"""ART's classifiers, attacks and trainers as the training loop sees them."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerMadryPGD, Trainer
from torch import Tensor, nn

from art_lowrank.hosts.art_data import Samples, labels_of
from art_lowrank.hosts.art_oracle import Array, outputs_of
from art_lowrank.hosts.art_trainer_checks import check_scheduler
from art_lowrank.training.adversaries import Adversary, Logits
from art_lowrank.training.chance import seeded
from art_lowrank.training.distributed import precision_here
from art_lowrank.training.loop import Course
from art_lowrank.training.measure import fingerprint, measured
from art_lowrank.training.team import ALONE, Team, first
from art_lowrank.weights import factorize, ranks_of

LOOK = 512  # images that decide about ranks


class ArtAdversary:
    """An evasion attack of ART as the inner attack of training, quiet."""

    def __init__(self, attack: EvasionAttack) -> None:
        self.attack = attack

    @property
    def eps(self) -> Any:
        """Its radius; an AttributeError if it has none."""
        return self.attack.eps

    @property
    def norm(self) -> Any:
        """Its norm; an AttributeError if it has none."""
        return self.attack.norm

    @property
    def clip(self) -> tuple[float, float] | None:
        """The range of samples."""
        bounds = self.attack.estimator.clip_values
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def __call__(self, logits: Logits, x: Tensor, y: Tensor, number: int) -> Tensor:
        with quiet(self.attack):
            found = self.attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())
        return torch.from_numpy(np.asarray(found, dtype=np.float32)).to(x)

    def __repr__(self) -> str:
        try:
            shown = {name: str(getattr(self.attack, name, None)) for name in self.attack.attack_params}
        except RecursionError:  # AutoAttack shows itself among its attacks
            return type(self.attack).__name__
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


def named(thing: object) -> str:
    """What tells an attack or a loss from another, in every process."""
    if isinstance(thing, FunctionType):
        return f"{thing.__module__}.{thing.__qualname__}"
    if isinstance(thing, nn.Module):  # a loss does not show its settings
        shown = {name: value for name, value in vars(thing).items() if isinstance(value, str | int | float)}
        return f"{thing!r} {sorted((name, value) for name, value in shown.items() if name != 'training')}"
    return repr(thing)


class Rest(NamedTuple):
    """What `fit` and `fit_generator` hand on beside the samples."""

    batch_size: int | None
    validation: tuple[Array, Array] | None
    scheduler: Any
    checkpoint: str | Path | None
    resume: bool


def same_of(rest: Rest, course: Course, samples: Samples) -> dict[str, Any]:
    """What decides when processes talk to each other, beside the configuration; all of them have to agree on it."""
    held = () if rest.validation is None else (torch.from_numpy(np.asarray(part)) for part in rest.validation)
    return {
        "validation_data": fingerprint(*held),
        "checkpoint": rest.checkpoint is not None,
        "resume": rest.resume,
        "patience": course.patience,
        "batches": samples.per_epoch,
    }


def asked_of(trainer: Any, batch_size: int | None, data: str, scheduler: Any) -> dict[str, Any]:
    """The configuration a checkpoint belongs to. The number of epochs is left out: training may go on longer."""
    optimizer, objective, warm = trainer.classifier.optimizer, trainer.objective, trainer.warm_start
    precision = precision_here(trainer.precision) if trainer.distributed else trainer.precision
    return {
        **({} if precision == "float32" else {"precision": precision}),
        "method": trainer.method,
        "options": json.dumps(trainer.options, sort_keys=True, default=str),
        "keep": trainer.keep,
        "ranks": str(trainer.ranks),
        "skip": list(trainer.skip),
        "fresh": trainer.fresh,
        "tighten": trainer.tighten,
        "objective": objective.name,
        "attack": named(objective.adversary),
        "warm_start": None if warm is None else str(replace(warm, path=None)),
        "beta": objective.beta if objective.name == "trades" else None,
        "loss": named(objective.loss),
        "preprocessing": str(trainer.classifier.preprocessing_operations),
        "seed": trainer.seed,
        "batch_size": batch_size,
        "data": data,
        "architecture": trainer.architecture,
        "optimizer": f"{type(optimizer).__name__} {sorted(optimizer.defaults.items(), key=str)}",
        "scheduler": None if scheduler is None else type(scheduler).__name__,
    }


def logits_of(classifier: Any) -> Logits:
    """From samples to outputs through the preprocessing; in training mode with what it does in `fit`."""
    outputs = outputs_of(classifier)
    return lambda x: outputs(x, classifier.model.training)


def inputs_of(classifier: Any, images: Tensor, seed: int) -> Callable[[], Tensor]:
    """Some of the images as the model sees them, made when asked for."""

    def look() -> Tensor:
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:LOOK]
        return torch.as_tensor(classifier._apply_preprocessing(images[chosen].numpy(), y=None, fit=False)[0])

    return look


def validation_of(
    classifier: Any, data: tuple[Array, Array] | None, adversary: Adversary | None, team: Team = ALONE
) -> Callable[[], dict[str, float]] | None:
    """What measures the model after every epoch, or None without validation data."""
    if data is None:
        return None
    images, (_, classes) = torch.from_numpy(np.asarray(data[0], np.float32)), labels_of(classifier, data[1])
    if not len(images) or len(images) != len(classes):
        raise ValueError(f"validation_data holds {len(images)} samples and {len(classes)} labels; give as many")
    logits = logits_of(classifier)
    return lambda: measured(classifier.model, logits, images, classes, adversary, team=team).shares()


def watched_of(
    classifier: Any, samples: Samples, validation: tuple[Array, Array] | None
) -> tuple[Tensor, Tensor] | None:
    """Samples and class numbers that watch over a warm start: those of validation, or those held back."""
    if validation is None:
        return samples.watched
    x, y = validation
    return torch.from_numpy(np.asarray(x, np.float32)), labels_of(classifier, y)[1]


def factorise(trainer: Any, look: Callable[[], Tensor], ranks: dict[str, int] | None, team: Team) -> None:
    """Factorise a trainer's model; the first process finds the ranks, which a machine's rounding may change."""

    def act(chosen: Any) -> dict[str, int]:
        with seeded(trainer.seed, 0):
            model = factorize(
                trainer.classifier.model,
                keep=trainer.keep,
                ranks=chosen,
                data=look() if chosen in (None, "activation") else None,
                skip=trainer.skip,
                optimizer=trainer.classifier.optimizer,
                fresh=trainer.fresh,
            )
        set_root(trainer.classifier, model)
        return ranks_of(model)

    found = first(team, lambda: act(ranks or trainer.ranks))
    if team.rank > 0:
        act(found)


def set_root(classifier: Any, model: nn.Module) -> None:
    """Exchange the whole module of a classifier: `set_params(model=...)` would break its wrapper."""
    if classifier.model is not model:
        classifier._model._model = model


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
