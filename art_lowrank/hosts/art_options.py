"""The settings of `LowRankPGD` in the core's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import truncnorm
from torch import Tensor

from art_lowrank.attack.checks import amounts, in_words_of_host
from art_lowrank.attack.options import Options
from art_lowrank.hosts.art_checks import clip_of
from art_lowrank.hosts.art_oracle import Array, Layout, reaches_torch

SAME = (  # what both call by one name
    "rank", "norm", "method", "targeted", "exact_rank", "early_stop", "seed", "init", "decay", "tile", "use_budget",
    "thorough", "precision",
)  # fmt: skip


def options_of(attack: Any, x: Array, layout: Layout) -> Options:
    """The settings for these samples; radii and steps spread over the images."""
    scale = float(truncnorm.rvs(0, 2, scale=0.5, random_state=attack._radii)) if attack.random_eps else 1.0
    host, step = torch.from_numpy(x), attack.eps_step
    options = checked(
        attack,
        clip=clip_of(attack.estimator, layout),
        eps=_spread(attack, "eps", attack.eps, host, layout) * scale,
        step_size=None if step is None else _spread(attack, "eps_step", step, host, layout) * scale,
    )
    return replace(options, seed=options.drawn_seed())


def checked(attack: Any, **given: Any) -> Options:
    """The core's options, which refuse what is wrong in itself."""
    settings = {"eps": attack.eps, "step_size": attack.eps_step, **given}
    loss = attack.loss
    if loss == "auto":
        loss = "auto" if reaches_torch(attack.estimator) else "estimator"
    with in_words_of_host(step_size="eps_step", steps="max_iter", restarts="num_random_init"):
        return Options(
            steps=attack.max_iter,
            loss=loss,
            restarts=max(1, attack.num_random_init),
            **{name: getattr(attack, name) for name in SAME},
            **settings,
        )


def _spread(attack: Any, name: str, value: Any, host: Tensor, layout: Layout) -> Tensor:
    """One number an image, or for l_inf one a pixel, in the core's order of axes."""
    norm = "inf" if attack.norm in (np.inf, "inf") else "2"
    spread = amounts(name, value, host, torch.float32, norm)
    return layout.images(spread) if norm == "inf" and spread.shape == host.shape else spread
