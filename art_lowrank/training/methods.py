"""The training methods by name, each as what it hangs on an optimizer's steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from art_lowrank.weights import Handle, adapt, constrain, penalise, shrink
from art_lowrank.weights.constraint import check_max_cond

Attach = Callable[..., list[Handle]]


def condlr(
    model: nn.Module, optimizer: Optimizer, *, max_cond: float = 1.5, over: int = 0, beta: float = 0.0
) -> list[Handle]:
    """Orthonormal factors and cond(W) <= max_cond; `over` steps to come down to it; beta > 0 adds the penalty too."""
    penalty: list[Handle] = [penalise(model, optimizer, beta=beta)] if beta else []
    return [*penalty, constrain(model, optimizer, max_cond=max_cond, over=over)]


def dlrt(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    beta: float = 0.05,
    tolerance: float = 0.1,
    cycle: int = 10,
    keep: float | None = None,
) -> list[Handle]:
    """RobustDLRT: rank-adaptive cycles with the spectral penalty."""
    cycles = adapt(model, optimizer, tolerance=tolerance, cycle=cycle, keep=keep)
    return [penalise(model, optimizer, beta=beta), cycles] if beta else [cycles]


def nuclear(
    model: nn.Module, optimizer: Optimizer, *, nuclear: float = 1e-3, sparse: float = 0.0, every: int = 10
) -> list[Handle]:
    """Proximal nuclear norm and l1 on dense weights."""
    return [shrink(model, optimizer, nuclear=nuclear, sparse=sparse, every=every)]


def none(model: nn.Module, optimizer: Optimizer) -> list[Handle]:
    """Low-rank weights and nothing else: the baseline."""
    return []


def dense(model: nn.Module, optimizer: Optimizer) -> list[Handle]:
    """Dense weights and nothing else."""
    return []


METHODS: dict[str, Attach] = {"condlr": condlr, "dlrt": dlrt, "nuclear": nuclear, "none": none, "dense": dense}
DENSE = ("nuclear", "dense")  # methods for weights that stay dense


def options_of(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options a method is run with, defaults included; one it does not know is refused."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; give one of {', '.join(map(repr, METHODS))}")
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(METHODS[method]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    if unknown := sorted(options.keys() - known.keys()):
        raise ValueError(f"method {method!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    merged = {**known, **options}
    if "max_cond" in merged:
        check_max_cond(merged["max_cond"])
    return merged


def attach(method: str, model: nn.Module, optimizer: Optimizer, options: Mapping[str, Any] = {}) -> list[Handle]:
    """Hang a method on the optimizer; the handles come in the order in which they act."""
    return METHODS[method](model, optimizer, **options_of(method, options))
