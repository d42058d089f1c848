"""`LowRankTrainer`: robust low-rank training as a trainer of the Adversarial Robustness Toolbox."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer
from torch import Tensor

from art_lowrank.hosts.art_oracle import Array
from art_lowrank.hosts.art_training import (
    adversary_of,
    check_classifier,
    check_course,
    check_scheduler,
    check_settings,
    check_sizes,
    check_trainer,
    factorize_proxies,
    hand_over,
    inputs_of,
    labels_of,
    logits_of,
    named,
    one_hot_of,
    one_pass,
    set_root,
    validation_of,
)
from art_lowrank.training.checkpoint import Folder
from art_lowrank.training.learner import Epoch, Learner
from art_lowrank.training.loop import Batch, Course, seeded, shuffled, train
from art_lowrank.training.measure import architecture, fingerprint
from art_lowrank.training.methods import DENSE, attach, options_of
from art_lowrank.training.objectives import Objective
from art_lowrank.weights import Handle, factorize, ranks_of


class _Rest(NamedTuple):
    """What `fit` and `fit_generator` hand on beside the batches."""

    data: str
    batch_size: int
    validation: tuple[Array, Array] | None
    scheduler: Any
    checkpoint: str | Path | None
    resume: bool


class LowRankTrainer(Trainer):
    """
    Training of networks whose weights live on the low-rank manifold, with a bounded condition number.

    | Paper links: https://arxiv.org/abs/2306.01485 (condlr), 2505.08022 (dlrt), 1901.10371 (nuclear)
    """

    def __init__(
        self,
        classifier: Any,
        *,
        keep: float = 0.2,
        max_cond: float = 1.5,
        method: str = "condlr",
        attack: Any = None,
        objective: str = "standard",
        warm_start: bool = False,
        trainer: Trainer | None = None,
        seed: int = 0,
        verbose: bool = True,
        beta: float = 6.0,
        ranks: str | Mapping[str, int] | None = None,
        skip: Iterable[str] = (),
        fresh: bool = False,
        tighten: float = 0.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Create a :class:`.LowRankTrainer` instance. The classifier's model changes with the first `fit`.

        :param classifier: A PyTorchClassifier with an optimizer; it stays the same object, and so does the optimizer.
        :param keep: The share of the model's parameters that is stored, in (0, 1].
        :param max_cond: Bound on the condition number of every low-rank weight (method "condlr").
        :param method: "condlr", "dlrt" (ranks adapt), "nuclear" (dense weights, nuclear norm and l1) or "none".
        :param attack: An ART evasion attack on this classifier, or `Pgd` or `SingleStep` of `art_lowrank.training`.
        :param objective: "standard", or with an attack "madry" or "trades".
        :param warm_start: Not in this version.
        :param trainer: An adversarial trainer of ART for this classifier that is to do the training.
        :param seed: Decides order, dropout and attacks; global random states are left as they were.
        :param verbose: Show a progress bar.
        :param beta: Weight of TRADES' second term.
        :param ranks: Ranks by layer name, or the rule that spends `keep`: "activation", "energy" or "uniform".
        :param skip: Names of layers that stay dense.
        :param fresh: Start the low-rank weights anew instead of from the classifier's.
        :param tighten: For pretrained nets: the share of all steps over which the bound comes down to max_cond.
        :param options: Further settings of the method, such as `tolerance` of "dlrt".
        """
        super().__init__(classifier)
        if warm_start:
            raise ValueError("warm_start=True is not in this version; leave it out")
        check_classifier(classifier)
        check_settings(keep, tighten, seed)
        given = {"max_cond": max_cond} if method == "condlr" else {"keep": keep} if method == "dlrt" else {}
        self.options = options_of(method, {**given, **(options or {})})
        self.keep, self.method, self.ranks, self.skip, self.fresh = keep, method, ranks, tuple(skip), fresh
        self.tighten, self.seed, self.verbose, self.trainer = tighten, seed, verbose, trainer
        if trainer is not None and (attack is not None or objective != "standard"):
            raise ValueError(
                f"{type(trainer).__name__} has its own attack and objective; leave attack and objective out"
            )
        check_trainer(trainer, classifier, method)
        self._architecture = architecture(classifier.model)  # as it was given: a resumed run begins with the same
        self.objective = Objective(objective, adversary_of(attack, classifier), beta, classifier.loss)
        self.handles: list[Handle] = []
        self.history: list[Epoch] = []

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        batch_size: int = 128,
        nb_epochs: int = 20,
        validation_data: tuple[Array, Array] | None = None,
        scheduler: Any = None,
        checkpoint: str | Path | None = None,
        resume: bool = True,
        patience: int | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Factorise the model (once), attach the method, and train; `history` holds what is known of every epoch.

        :param x: Training samples in the classifier's layout; `y` labels of shape (n,), (n, 1) or (n, classes).
        :param batch_size: Size of batches.
        :param nb_epochs: Epochs in all, those before a resume included.
        :param validation_data: Samples and labels to be measured after every epoch, clean and under the attack.
        :param scheduler: Any torch scheduler of the classifier's optimizer; it steps once an epoch.
        :param checkpoint: Folder for the last state and the best weights; a run that was stopped goes on from it.
        :param resume: Whether to go on from the folder; False begins anew.
        :param patience: Epochs without a better validation after which training stops.
        :param kwargs: With `trainer`, further arguments of its `fit`.
        """
        images = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        labels, classes = labels_of(self.classifier, y)
        check_sizes(images, labels)
        check_course(batch_size, nb_epochs, patience, validation_data is not None)
        look = inputs_of(self.classifier, images, self.seed)
        if self.trainer is not None:
            if checkpoint is not None or patience is not None:
                raise ValueError(f"{type(self.trainer).__name__} trains by itself; leave checkpoint and patience out")
            self._prepare(look, None, nb_epochs * math.ceil(len(x) / batch_size))
            factorize_proxies(self.trainer, self.classifier.model)
            if validation_data is not None:
                kwargs["validation_data"] = validation_data[0], one_hot_of(self.classifier, validation_data[1])
            one_hot = one_hot_of(self.classifier, y)
            with seeded(self.seed, 0):  # ART shuffles with numpy's global state
                hand_over(self.trainer, images.numpy(), one_hot, batch_size, nb_epochs, scheduler, kwargs)
            for handle in self.handles:  # AWP takes its perturbation back after the optimizer's step
                handle.enforce()
            return
        if kwargs:
            raise TypeError(f"fit has no argument {sorted(kwargs)[0]!r}")
        batches = shuffled(images, labels, batch_size, self.seed, self.classifier.device)
        course = Course(nb_epochs, self.seed, patience, self.verbose)
        rest = _Rest(fingerprint(images, classes), batch_size, validation_data, scheduler, checkpoint, resume)
        self._train(batches, look, math.ceil(len(x) / batch_size), course, rest)

    def fit_generator(
        self,
        generator: DataGenerator,
        nb_epochs: int = 20,
        *,
        validation_data: tuple[Array, Array] | None = None,
        scheduler: Any = None,
        checkpoint: str | Path | None = None,
        resume: bool = True,
        patience: int | None = None,
    ) -> None:
        """
        The same on batches of a generator; resumed exactly if it draws every epoch from a global random state anew.
        """
        if self.trainer is not None:
            raise ValueError("fit_generator does its own training; call it on the trainer you gave, or use fit")
        check_course(generator.batch_size, nb_epochs, patience, validation_data is not None)
        if generator.size is None:
            raise ValueError("the generator's size is None; give the number of samples of an epoch")
        number = math.ceil(generator.size / generator.batch_size)

        def batches(epoch: int) -> Iterable[Batch]:
            for x, y in one_pass(generator):
                labels = labels_of(self.classifier, y)[0].to(self.classifier.device)
                yield torch.from_numpy(np.asarray(x, dtype=np.float32)).to(self.classifier.device), labels

        def first() -> Tensor:
            return torch.from_numpy(np.asarray(next(one_pass(generator))[0], dtype=np.float32))

        data = f"generator of {generator.size}"
        rest = _Rest(data, generator.batch_size, validation_data, scheduler, checkpoint, resume)
        self._train(batches, first, number, Course(nb_epochs, self.seed, patience, self.verbose), rest)

    def predict(self, x: Array, **kwargs: Any) -> Array:
        """The classifier's predictions; keywords go to its own `predict`."""
        found: Array = self.classifier.predict(x, **kwargs)
        return found

    def _train(
        self,
        batches: Callable[[int], Iterable[Batch]],
        look: Callable[[], Tensor],
        per_epoch: int,
        course: Course,
        rest: _Rest,
    ) -> None:
        check_scheduler(rest.scheduler, self.classifier.optimizer)
        folder = None if rest.checkpoint is None else Folder(Path(rest.checkpoint), self._asked(rest))
        before = folder.load() if folder is not None and rest.resume else None
        self._prepare(look, None if before is None else before["ranks"], course.epochs * per_epoch)
        classifier = self.classifier
        learner = Learner(
            classifier.model, logits_of(classifier), classifier.optimizer, self.objective, self.handles, rest.scheduler
        )
        self.history = train(
            learner,
            batches,
            course,
            validation_of(self.classifier, rest.validation, self.objective.adversary),
            folder,
            rest.resume,
        )

    def _prepare(self, look: Callable[[], Tensor], ranks: Mapping[str, int] | None, steps: int) -> None:
        """Factorise the model and attach the method, unless that was done before."""
        classifier = self.classifier
        if self.method not in DENSE and not ranks_of(classifier.model):
            chosen = ranks if ranks else self.ranks
            with seeded(self.seed, 0):
                model = factorize(
                    classifier.model,
                    keep=self.keep,
                    ranks=chosen,
                    data=look() if chosen in (None, "activation") else None,
                    skip=self.skip,
                    optimizer=classifier.optimizer,
                    fresh=self.fresh,
                )
            set_root(classifier, model)
        if not self.handles:
            over = {"over": round(self.tighten * steps)} if self.method == "condlr" and self.tighten else {}
            self.handles = attach(self.method, classifier.model, classifier.optimizer, {**self.options, **over})

    def _asked(self, rest: _Rest) -> dict[str, Any]:
        """The configuration a checkpoint belongs to. The number of epochs is left out: training may go on longer."""
        optimizer, objective = self.classifier.optimizer, self.objective
        return {
            "method": self.method,
            "options": json.dumps(self.options, sort_keys=True, default=str),
            "keep": self.keep,
            "ranks": str(self.ranks),
            "skip": list(self.skip),
            "fresh": self.fresh,
            "tighten": self.tighten,
            "objective": objective.name,
            "attack": named(objective.adversary),
            "beta": objective.beta if objective.name == "trades" else None,
            "loss": named(objective.loss),
            "preprocessing": str(self.classifier.preprocessing_operations),
            "seed": self.seed,
            "batch_size": rest.batch_size,
            "data": rest.data,
            "architecture": self._architecture,
            "optimizer": f"{type(optimizer).__name__} {sorted(optimizer.defaults.items(), key=str)}",
            "scheduler": None if rest.scheduler is None else type(rest.scheduler).__name__,
        }
