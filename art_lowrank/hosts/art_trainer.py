"""`LowRankTrainer`: robust low-rank training as a trainer of the Adversarial Robustness Toolbox."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from art_lowrank.hosts.art_data import Samples, labels_of, one_hot_of, samples_of
from art_lowrank.hosts.art_oracle import Array
from art_lowrank.hosts.art_trainer_checks import (
    check_classifier,
    check_course,
    check_distributed,
    check_scheduler,
    check_settings,
    check_sizes,
    check_trainer,
)
from art_lowrank.hosts.art_training import (
    Rest,
    adversary_of,
    asked_of,
    factorise,
    factorize_proxies,
    hand_over,
    inputs_of,
    logits_of,
    same_of,
    validation_of,
    watched_of,
)
from art_lowrank.training.chance import seeded
from art_lowrank.training.checkpoint import Folder, ranks_before
from art_lowrank.training.distributed import alone, check_device, team_here
from art_lowrank.training.learner import Epoch, Learner
from art_lowrank.training.loop import Course, shuffled, train
from art_lowrank.training.measure import architecture, fingerprint
from art_lowrank.training.methods import DENSE, attach, options_of
from art_lowrank.training.objectives import Objective
from art_lowrank.training.precision import check_precision, precision_of
from art_lowrank.training.team import ALONE, Team, check_same, first
from art_lowrank.training.warm_loop import check_warm, held_back, remembering, settings_of, watch_of
from art_lowrank.training.warm_start import WarmStart
from art_lowrank.weights import Handle, ranks_of


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
        warm_start: bool | WarmStart = False,
        trainer: Trainer | None = None,
        seed: int = 0,
        verbose: bool = True,
        beta: float = 6.0,
        ranks: str | Mapping[str, int] | None = None,
        skip: Iterable[str] = (),
        fresh: bool = False,
        tighten: float = 0.0,
        options: Mapping[str, Any] | None = None,
        distributed: bool = False,
        precision: str = "float32",
    ) -> None:
        """
        Create a :class:`.LowRankTrainer` instance. The classifier's model changes with the first `fit`.

        :param classifier: A PyTorchClassifier with an optimizer; it stays the same object, and so does the optimizer.
        :param keep: The share of the model's parameters that is stored, in (0, 1].
        :param max_cond: Bound on the condition number of every low-rank weight (method "condlr").
        :param method: "condlr", "dlrt" (ranks adapt), "nuclear" (dense weights, nuclear norm and l1) or "none".
        :param attack: An ART evasion attack on this classifier, or `Pgd` or `SingleStep` of `art_lowrank.training`.
        :param objective: "standard", or with an attack "madry" or "trades".
        :param warm_start: Start every attack where the last one on that sample ended, one step of the attack's ball
            instead of the attack: True, or `art_lowrank.training.WarmStart` with settings. `fit` without validation
            data holds a twentieth of the samples back (256 at most) to watch for catastrophic overfitting.
        :param trainer: An adversarial trainer of ART for this classifier that is to do the training.
        :param seed: Decides order, dropout and attacks; global random states are left as they were.
        :param verbose: Show a progress bar.
        :param beta: Weight of TRADES' second term.
        :param ranks: Ranks by layer name, or the rule that spends `keep`: "activation", "energy" or "uniform".
        :param skip: Names of layers that stay dense.
        :param fresh: Start the low-rank weights anew instead of from the classifier's.
        :param tighten: For pretrained nets: the share of all steps over which the bound comes down to max_cond.
        :param options: Further settings of the method, such as `tolerance` of "dlrt".
        :param distributed: Train together with the processes that `accelerate launch` or `torchrun` started beside this
            one, each on its share of every batch; the same samples and settings have to be given to all of them. ART's
            own attacks draw random starts by the place in a share: with those, weights depend on how many there are.
        :param precision: "float32", or mixed: "bf16", "fp16"; with `distributed` what `accelerate launch` says counts.
        """
        super().__init__(classifier)
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
        self.architecture = architecture(classifier.model)  # as it was given: a resumed run begins with the same
        self.adversary = adversary_of(attack, classifier)
        self.objective = Objective(objective, self.adversary, beta, classifier.loss)
        self.warm_start = settings_of(warm_start)
        if self.warm_start is not None:
            check_warm(self.objective, trainer)
        check_distributed(distributed, trainer)
        check_precision(precision)
        self.distributed, self.precision = distributed, precision
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
        device = self.classifier.device
        rows, watched = held_back(len(images), self.warm_start is not None and validation_data is None, self.seed)
        samples = Samples(
            shuffled(images, labels, batch_size, self.seed, device, rows, even=self.warm_start is not None),
            look,
            lambda: tuple(images.shape[1:]),
            len(images),
            math.ceil(len(rows) / batch_size),
            fingerprint(images, classes),
            (images[watched], classes[watched]),
        )
        course = Course(nb_epochs, self.seed, patience, self.verbose)
        self._train(samples, course, Rest(batch_size, validation_data, scheduler, checkpoint, resume))

    def fit_generator(
        self,
        generator: DataGenerator | DataLoader[Any],
        nb_epochs: int = 20,
        *,
        validation_data: tuple[Array, Array] | None = None,
        scheduler: Any = None,
        checkpoint: str | Path | None = None,
        resume: bool = True,
        patience: int | None = None,
    ) -> None:
        """
        The same on batches of a generator or of a DataLoader; resumed exactly if it draws every epoch from a global
        random state anew. A warm start needs batches (x, y, indices) or (x, y, indices, moves), which the data set
        `art_lowrank.training.Indexed` gives, and is watched over on the validation data, if there are any.
        """
        if self.trainer is not None:
            raise ValueError("fit_generator does its own training; call it on the trainer you gave, or use fit")
        samples = samples_of(self.classifier, generator, self.warm_start is not None)
        check_course(generator.batch_size or 1, nb_epochs, patience, validation_data is not None)
        course = Course(nb_epochs, self.seed, patience, self.verbose)
        self._train(samples, course, Rest(generator.batch_size, validation_data, scheduler, checkpoint, resume))

    def predict(self, x: Array, **kwargs: Any) -> Array:
        """The classifier's predictions; keywords go to its own `predict`."""
        found: Array = self.classifier.predict(x, **kwargs)
        return found

    def _train(self, samples: Samples, course: Course, rest: Rest) -> None:
        check_scheduler(rest.scheduler, self.classifier.optimizer)
        team = team_here() if self.distributed else alone()
        check_device(team, self.classifier.device)
        asked = asked_of(self, rest.batch_size, samples.name, rest.scheduler)
        check_same(team, "trainings", {**asked, "nb_epochs": course.epochs, **same_of(rest, course, samples)})
        folder = None if rest.checkpoint is None else Folder(Path(rest.checkpoint), asked)
        before = first(team, lambda: ranks_before(folder) if folder is not None and rest.resume else None)
        self._prepare(samples.look, before, course.epochs * samples.per_epoch, team)
        classifier, objective, watch, resume = self.classifier, self.objective, None, rest.resume
        if self.warm_start is not None:
            place = None if folder is None else folder.path / "perturbations"
            shape, name = samples.shape(), samples.name
            objective = remembering(objective, self.warm_start, samples.total, shape, place, name, resume, team)
            watch = watch_of(self.objective, self.warm_start, watched_of(classifier, samples, rest.validation))
        learner = Learner(
            classifier.model,
            logits_of(classifier),
            classifier.optimizer,
            objective,
            self.handles,
            rest.scheduler,
            watch,
            precision_of(asked.get("precision", "float32"), classifier.device),
        )
        validate = validation_of(classifier, rest.validation, self.adversary, team)
        self.history = train(learner, samples.batches, course, validate, folder, resume, team)

    def _prepare(
        self, look: Callable[[], Tensor], ranks: dict[str, int] | None, steps: int, team: Team = ALONE
    ) -> None:
        """Factorise the model and attach the method, unless that was done before."""
        classifier = self.classifier
        if self.method not in DENSE and not ranks_of(classifier.model):
            factorise(self, look, ranks, team)
        if not self.handles:
            over = {"over": round(self.tighten * steps)} if self.method == "condlr" and self.tighten else {}
            self.handles = attach(self.method, classifier.model, classifier.optimizer, {**self.options, **over})
