"""The matrices of a net's layers, whatever kind of layer they are of, and measures of their rank and sparsity."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from from_others import Factored
from torch import Tensor, nn

from art_lowrank.record import JSON
from art_lowrank.spectra import entropy_rank, ratio_rank, singular_values, stable_rank
from art_lowrank.weights import LowRankLayer

ROUNDING = 1e-5  # below this share of the largest, a singular value is rounding


def matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight as an out x (in k k) matrix."""
    for name, module in model.named_modules():
        if isinstance(module, Factored):
            yield name, module.weight().detach()
        elif isinstance(module, nn.Linear | nn.Conv2d | LowRankLayer):
            yield name, module.weight.detach().flatten(1)


def measured(model: nn.Module) -> list[dict[str, JSON]]:
    """Ranks as shares of full rank, sparsity as a share of the entries."""
    low = {name for name, module in model.named_modules() if isinstance(module, Factored | LowRankLayer)}
    return [{"layer": name, "low_rank": name in low, **of_matrix(matrix)} for name, matrix in matrices(model)]


def of_matrix(matrix: Tensor) -> dict[str, JSON]:
    """The three effective ranks over full rank, (|W|_1 / |W|_F)^2 over the number of entries, and cond(W)."""
    full, wide = min(matrix.shape), matrix.double()
    ratio = float(wide.abs().sum() ** 2 / wide.square().sum().clamp_min(1e-300))
    ranks = {"stable": stable_rank, "ratio": ratio_rank, "entropy": entropy_rank}
    return {
        "shape": list(matrix.shape),
        **{name: float(rank(wide)) / full for name, rank in ranks.items()},
        "dense": ratio / wide.numel(),
        "norm": float(singular_values(wide)[0]),
        "cond": condition(wide),
    }


def condition(matrix: Tensor) -> float:
    """Over the singular values that are not rounding; for low-rank matrices those of the range."""
    values = singular_values(matrix)
    values = values[values > values[0] * ROUNDING]
    return float(values[0] / values[-1]) if len(values) else 0.0


def mean(found: list[dict[str, JSON]], name: str) -> float:
    """Over layers."""
    return float(torch.tensor([float(str(layer[name])) for layer in found]).mean())
