"""What the swapped tests import: our ART attack with the settings of ART's PGD, ART's Madry trainer with our attack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerMadryPGD
from art.utils import random_sphere

from art_lowrank import Factors, LowRankPGD


class FullRankPGD(LowRankPGD):
    """ART's PGD by our class: its defaults, and its random numbers, which come from NumPy's global state."""

    def __init__(self, estimator: Any, norm: Any = np.inf, eps: Any = 0.3, eps_step: Any = 0.1, **others: Any) -> None:
        settings = {"rank": "full", "loss": "estimator", "max_iter": 100, "batch_size": 32, **others}
        super().__init__(estimator, norm=norm, eps=eps, eps_step=eps_step, **settings)
        self._radii = None  # of random_eps: SciPy then draws from the global state

    def _options(self, x: Any, layout: Any) -> Any:
        """One random start is drawn as ART draws it: batch by batch, after the radius. (Ours begins at the images.)"""
        options = super()._options(x, layout)
        if self.num_random_init != 1:
            return options
        parts = [slice(first, first + self.batch_size) for first in range(0, len(x), self.batch_size)]
        start = [
            random_sphere(len(x[rows]), x[0].size, float(options.eps[rows].flatten()[0]), self.norm) for rows in parts
        ]
        noise = np.clip(x + np.concatenate(start).reshape(x.shape), *self.estimator.clip_values) - x
        images = layout.images(torch.from_numpy(noise.astype(np.float32)))
        return replace(options, init=Factors(images, torch.eye(images.shape[-1]).expand(*images.shape[:2], -1, -1)))


class MadryTrainer(AdversarialTrainerMadryPGD):
    """ART's trainer, which builds its own attack, with ours of the same radius, steps and restarts."""

    def __init__(self, classifier: Any, **settings: Any) -> None:
        super().__init__(classifier, **settings)
        theirs = self.attack
        self.attack = LowRankPGD(
            classifier,
            eps=theirs.eps,
            eps_step=theirs.eps_step,
            max_iter=theirs.max_iter,
            num_random_init=theirs.num_random_init,
            verbose=False,
        )
        self.trainer = AdversarialTrainer(classifier, self.attack, ratio=1.0)
