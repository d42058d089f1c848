"""Penalties that training methods add: RobustDLRT's spectral regulariser, the nuclear norm and l1 by their proxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from art_lowrank.spectra import entropy_rank, numerical_rank
from art_lowrank.weights.convert import candidates
from art_lowrank.weights.energy import Plain
from art_lowrank.weights.handle import Handle, check_precision, layers_in
from art_lowrank.weights.layers import LowRankLayer


def spectral_penalty(core: Tensor) -> Tensor:
    """R(S) = |S^T S - a^2 I|_F with a^2 = |S|_F^2 / r (arXiv 2505.08022), for a core or its diagonal (r,).

    A core that is not square is taken the short way round, r its smaller side.
    """
    size: Tensor = torch.linalg.vector_norm(_deviation(core))
    return size


def spectral_gradient(core: Tensor) -> Tensor:
    """dR/dS = 2 S (S^T S - a^2 I) / R(S), 0 where R is 0: autograd would give NaN there."""
    deviation = _deviation(core)
    size = torch.linalg.vector_norm(deviation)
    wide = core.ndim == 2 and core.shape[0] < core.shape[1]
    raw = core * deviation if core.ndim == 1 else deviation @ core if wide else core @ deviation
    rounding = 8 * torch.finfo(core.dtype).eps * core.square().sum()
    gradient: Tensor = torch.where(size > rounding, 2 * raw / size, torch.zeros_like(raw))
    return gradient


def _deviation(core: Tensor) -> Tensor:
    if core.ndim == 1:
        return core.square() - core.square().mean()
    gram = core @ core.mT if core.shape[0] < core.shape[1] else core.mT @ core
    return gram - gram.diagonal().mean() * torch.eye(len(gram), dtype=core.dtype, device=core.device)


class SpectralPenalty(Handle):
    """Adds beta times the regulariser's gradient to that of every core before the step."""

    needs_gradients = True

    def __init__(self, optimizer: Optimizer, layers: Mapping[str, LowRankLayer], beta: float) -> None:
        super().__init__(optimizer)
        self.beta, self._layers = beta, dict(layers)

    def before(self) -> None:
        for layer in self._layers.values():
            if layer.weight_s.grad is not None:
                layer.weight_s.grad.add_(spectral_gradient(layer.weight_s), alpha=self.beta)


def penalise(model: nn.Module, optimizer: Optimizer, *, beta: float = 0.05) -> SpectralPenalty:
    """Train with loss + beta * sum of R(S) over the low-rank layers; meaningful where u and v are orthonormal."""
    if not beta >= 0:
        raise ValueError(f"beta is {beta!r}; give a weight of at least 0 for the spectral penalty")
    return SpectralPenalty(optimizer, layers_in(model, optimizer), float(beta))


class Shape(NamedTuple):
    """How low-rank and how sparse a dense layer has become."""

    rank: int  # singular values above a thousandth of the largest
    entropy_rank: float
    density: float  # share of entries that are not 0


class Shrinking(Handle):
    """Proximal steps on dense weights: soft-thresholded singular values, then soft-thresholded entries.

    Penalties of arXiv 1901.10371; the proximal method is ours (a subgradient never reaches rank or sparsity). The two
    proxes follow each other, which is not the prox of their sum. A threshold is learning rate x weight x steps since.
    """

    def __init__(
        self, optimizer: Optimizer, layers: Mapping[str, Plain], nuclear: float, sparse: float, every: int
    ) -> None:
        super().__init__(optimizer)
        self.nuclear, self.sparse, self.every, self.steps = nuclear, sparse, every, 0
        self._layers = dict(layers)

    def after(self) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            self._shrink(self.every)

    def settle(self) -> None:
        """What is due since the last proximal step."""
        self._shrink(self.steps % self.every)
        self.steps -= self.steps % self.every

    def _shrink(self, steps: int) -> None:
        if not steps:
            return
        rates = {id(p): float(group["lr"]) for group in self.optimizer.param_groups for p in group["params"]}
        for layer in self._layers.values():
            length = rates.get(id(layer.weight), 0.0) * steps
            if self.nuclear and length:
                layer.weight.copy_(shrunk(layer.weight.flatten(1), length * self.nuclear).reshape(layer.weight.shape))
            if self.sparse and length:
                layer.weight.copy_(soft(layer.weight, length * self.sparse))

    def shapes(self) -> dict[str, Shape]:
        """Rank and density of every layer now."""
        return {name: shape_of(layer.weight) for name, layer in self._layers.items()}

    def notes(self) -> dict[str, Any]:
        return {"shapes": {name: shape._asdict() for name, shape in self.shapes().items()}}

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = int(state["steps"])


def shrink(
    model: nn.Module, optimizer: Optimizer, *, nuclear: float = 1e-3, sparse: float = 0.0, every: int = 10
) -> Shrinking:
    """Train dense layers with nuclear * |W|_* + sparse * |W|_1; one singular value decomposition every few steps."""
    for name, value in (("nuclear", nuclear), ("sparse", sparse)):
        if not value >= 0:
            raise ValueError(f"{name} is {value!r}; give a weight of at least 0")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every is {every!r}; give a number of steps of at least 1")
    if not (layers := candidates(model)):
        raise ValueError("the model has no Linear or Conv2d layer to shrink")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, layer in layers.items():
        check_precision(name, layer.weight)
        if layer.weight.requires_grad and id(layer.weight) not in held:
            raise ValueError(f"the optimizer does not hold {name}.weight; make it with all the model's parameters")
    return Shrinking(optimizer, layers, nuclear, sparse, every)


def shape_of(weight: Tensor) -> Shape:
    """Effective ranks and density of a weight as a matrix."""
    matrix = weight.detach().flatten(1)
    return Shape(int(numerical_rank(matrix)), float(entropy_rank(matrix)), float((matrix != 0).double().mean()))


def shrunk(matrix: Tensor, threshold: float) -> Tensor:
    """The prox of threshold * |W|_*: singular values lowered by the threshold, none below 0."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    lowered: Tensor = (u * (s - threshold).clamp_min(0)) @ vt
    return lowered


def soft(values: Tensor, threshold: float) -> Tensor:
    """The prox of threshold * |W|_1."""
    return values.sign() * (values.abs() - threshold).clamp_min(0)
