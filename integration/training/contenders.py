"""What is compared on LeNet5: ways to train the same net, each built from a seed and a learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from borrowed import CondLRSGD, condense
from lenet import lenet5, mnist
from torch import nn
from torch.optim import SGD, Optimizer

from art_lowrank.training.methods import attach
from art_lowrank.weights import Handle, densify, factorize, ranks_of

RATES = (0.01, 0.016, 0.025, 0.04, 0.063, 0.1)  # the same six for everybody
MOMENTUM, LOOK = 0.9, 512

Built = tuple[nn.Module, Optimizer, list[Handle]]


@dataclass(frozen=True)
class Contender:
    """A row of the table. `keep` is the share of stored parameters its ranks were chosen for, 1 for dense nets."""

    name: str
    keep: float
    build: Callable[[int, float], Built]
    settings: dict[str, Any] = field(default_factory=dict)


@cache
def chosen(keep: float, rule: str, seed: int) -> dict[str, int]:
    """The ranks that `factorize` chooses for the untrained net; all that are said to have equal ranks share them."""
    return ranks_of(factorize(lenet5(seed), keep=keep, ranks=rule, data=mnist().train.x[:LOOK]))


def dense(seed: int, lr: float) -> Built:
    model = lenet5(seed)
    return model, SGD(model.parameters(), lr, MOMENTUM), []


def shrinking(seed: int, lr: float, **options: float) -> Built:
    model, optimizer, _ = dense(seed, lr)
    return model, optimizer, attach("nuclear", model, optimizer, options)


def low_rank(seed: int, lr: float, keep: float, rule: str, method: str, **options: float) -> Built:
    """Ours: fresh factors at the ranks chosen, one of the package's methods."""
    model = fresh(seed, keep, rule)
    optimizer = SGD(model.parameters(), lr, MOMENTUM)
    return model, optimizer, attach(method, model, optimizer, options)


def two_factors(seed: int, lr: float, keep: float) -> Built:
    """W = U V^T, both factors free: low-rank layers as most people write them."""
    model = densify(fresh(seed, keep, "activation"), pairs=True)
    return model, SGD(model.parameters(), lr, MOMENTUM), []


def condlr(seed: int, lr: float, keep: float, **options: Any) -> Built:
    """The peer, at the ranks of ours."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = condense(lenet5(seed), chosen(keep, "activation", seed))
    return model, CondLRSGD(model, lr, MOMENTUM, **options), []


def fresh(seed: int, keep: float, rule: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factorize(lenet5(seed), ranks=chosen(keep, rule, seed), fresh=True)


def of(name: str, keep: float, build: Callable[..., Built], **settings: Any) -> Contender:
    """A contender whose builder takes its settings and, but for dense nets, its share."""
    shared = settings if keep == 1 else {**settings, "keep": keep}
    return Contender(name, keep, lambda seed, lr: build(seed, lr, **shared), settings)


OURS = {"rule": "activation", "method": "condlr"}


def at(keep: float) -> tuple[Contender, ...]:
    """What is compared at one share of parameters."""
    return (
        of("condlr 1.5", keep, low_rank, **OURS, max_cond=1.5),
        of("vanilla U s V", keep, low_rank, rule="activation", method="none"),
        of("CondLR, our implementation", keep, condlr, max_cond=1.5),
        of("orthonormal, no clamp", keep, low_rank, **OURS, max_cond=math.inf),
        of("condlr 1.5, uniform ranks", keep, low_rank, rule="uniform", method="condlr", max_cond=1.5),
    )


CONTENDERS = (
    of("dense", 1, dense),
    *at(0.07),
    *at(0.2),
    of("vanilla U V", 0.2, two_factors),
    of("dlrt", 0.2, low_rank, rule="activation", method="dlrt", beta=0.05, tolerance=0.1),
    of("orthonormal, penalty 0.05", 0.2, low_rank, **OURS, max_cond=math.inf, beta=0.05),
    of("dense, nuclear 1e-2", 1, shrinking, nuclear=1e-2),
)
