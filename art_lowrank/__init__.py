"""Low-rank attacks and training for ART, torchattacks and plain torch. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from art_lowrank.attack import Attacked, Curve, Factors, Queries, eps_curve, lowrank_pgd, rank_curve
    from art_lowrank.hosts.art_attack import LowRankPGD
    from art_lowrank.hosts.art_trainer import LowRankTrainer
    from art_lowrank.hosts.torchattacks import LoRaPGD
    from art_lowrank.plot import plot_curves
    from art_lowrank.weights import constrain, densify, factorize

_HOMES = {
    "Attacked": "art_lowrank.attack",
    "Curve": "art_lowrank.attack",
    "Factors": "art_lowrank.attack",
    "Queries": "art_lowrank.attack",
    "eps_curve": "art_lowrank.attack",
    "lowrank_pgd": "art_lowrank.attack",
    "rank_curve": "art_lowrank.attack",
    "LowRankPGD": "art_lowrank.hosts.art_attack",
    "LoRaPGD": "art_lowrank.hosts.torchattacks",
    "LowRankTrainer": "art_lowrank.hosts.art_trainer",
    "constrain": "art_lowrank.weights",
    "densify": "art_lowrank.weights",
    "factorize": "art_lowrank.weights",
    "plot_curves": "art_lowrank.plot",
}

__all__ = [
    "Attacked",
    "Curve",
    "Factors",
    "LoRaPGD",
    "LowRankPGD",
    "LowRankTrainer",
    "Queries",
    "constrain",
    "densify",
    "eps_curve",
    "factorize",
    "lowrank_pgd",
    "plot_curves",
    "rank_curve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'art_lowrank' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
