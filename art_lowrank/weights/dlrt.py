"""RobustDLRT (arXiv 2505.08022): bases that turn with the gradient, training of the core, ranks that adapt.

A cycle, its steps hung on the optimizer's: the first batch's gradients of u and v widen the bases to 2 r columns; the
core, now a 2 r x 2 r matrix, is trained for some steps; then its singular values decide the new rank. The regulariser
is `penalise`. The paper's: augmentation, core steps, truncation by |tail|_2 < tolerance |S|_F, moments carried over as
its code does. Ours: convolutions as out x (in kh kw) matrices instead of Tucker cores, and a ceiling on what all layers
store together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from art_lowrank.weights.convert import stored
from art_lowrank.weights.handle import Handle, layers_in
from art_lowrank.weights.layers import LowRankLayer, put
from art_lowrank.weights.ranks import Shape, allocate, by_energy
from art_lowrank.weights.retraction import orthonormal

LEAST = 2  # the paper's smallest rank
SIGNED = ("exp_avg", "momentum_buffer", "grad_avg", "prev", "ax")  # torch's moments that are not of squares


class Dlrt(Handle):
    """The method at work on one optimizer; `enforce` ends a cycle early, which leaves diagonal cores."""

    needs_gradients = True

    def __init__(
        self, optimizer: Optimizer, layers: Mapping[str, LowRankLayer], tolerance: float, cycle: int, room: int
    ) -> None:
        super().__init__(optimizer)
        self.tolerance, self.cycle, self.room, self.steps = tolerance, cycle, room, 0
        self._layers = {name: layer for name, layer in layers.items() if layer.weight_u.requires_grad}
        with self._exact():
            for layer in self._layers.values():
                layer.retract_()  # the bases must be orthonormal before they are widened

    def before(self) -> None:
        """The first step of a cycle widens the bases; only the other parameters take that step."""
        if self.steps == 0:
            for layer in self._layers.values():
                widen(layer, self.optimizer)

    def after(self) -> None:
        self.steps += 1
        if self.steps >= self.cycle:
            self.settle()

    def settle(self) -> None:
        """Truncate every layer that is widened."""
        wide = {name: layer for name, layer in self._layers.items() if layer.weight_s.ndim == 2}
        wide = {name: layer for name, layer in wide.items() if bool(torch.isfinite(layer.weight_s).all())}
        values = {name: torch.linalg.svdvals(layer.weight_s.double()) for name, layer in wide.items()}
        for name, rank in self._ranks(values).items():
            narrow(wide[name], rank, self.optimizer)
        self.steps = 0

    def remove(self) -> None:
        """End the cycle, and leave the optimizer moments of the shape the cores now have."""
        self.enforce()
        for layer in self._layers.values():
            carry(
                self.optimizer, layer.weight_s, lambda moment: moment.diagonal().clone() if moment.ndim == 2 else moment
            )
        super().remove()

    def _ranks(self, values: Mapping[str, Tensor]) -> dict[str, int]:
        """What the tolerance asks for, and no more than fits."""
        wanted = {name: tolerated(s, self.tolerance) for name, s in values.items()}
        shapes = {name: _shape(self._layers[name]) for name in values}
        if sum(shape.cost(wanted[name]) for name, shape in shapes.items()) <= self.room:
            return {name: min(rank, max(1, shapes[name].limit)) for name, rank in wanted.items()}
        urgency = {name: by_energy(_padded(values[name].square(), shape), shape) for name, shape in shapes.items()}
        fitting = allocate(shapes, urgency, self.room, None)
        return {name: max(1, min(wanted[name], fitting[name], shapes[name].limit)) for name in values}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "room": self.room}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.room = int(state["steps"]), int(state["room"])


def adapt(
    model: nn.Module, optimizer: Optimizer, *, tolerance: float = 0.1, cycle: int = 10, keep: float | None = None
) -> Dlrt:
    """Train the low-rank layers by RobustDLRT's cycles, in anybody's loop.

    tolerance   the share of a core's Frobenius norm that truncation may drop: the larger, the lower the ranks
    cycle       steps of a cycle, the first of which widens the bases
    keep        the share of the dense model's parameters never to be exceeded; None for what is stored now
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance!r}; give a share of the core's norm in (0, 1), the paper has 0.1")
    if isinstance(cycle, bool) or not isinstance(cycle, int) or cycle < 2:
        raise ValueError(f"cycle is {cycle!r}; give at least 2 steps: one widens the bases, the others train")
    layers = layers_in(model, optimizer)
    counts = stored(model)
    spent = sum(_shape(layer).cost(layer.rank) for layer in layers.values())
    room = spent if keep is None else int(keep * counts.dense) - (counts.now - spent)
    if room < (least := sum(_shape(layer).cost(1) for layer in layers.values())):
        smallest = (counts.now - spent + least) / counts.dense
        raise ValueError(f"keep={keep} cannot be reached by dlrt; give keep >= {smallest:.4f}")
    return Dlrt(optimizer, layers, tolerance, cycle, room)


def widen(layer: LowRankLayer, optimizer: Optimizer) -> None:
    """[u | du] and [v | dv] orthonormalised; the same W, with a core of up to twice the size that alone is trained."""
    u, s, v = layer.weight_u.detach(), layer.weight_s.detach(), layer.weight_v.detach()
    if layer.weight_u.grad is None or layer.weight_v.grad is None:
        return  # the layer took no part
    left, right = _widened(u, layer.weight_u.grad), _widened(v, layer.weight_v.grad)
    _carry(optimizer, layer.weight_s, left.mT @ u, v.mT @ right)
    for basis in (layer.weight_u, layer.weight_v):  # not trained within a cycle, and of another rank after it
        optimizer.state.pop(basis, None)
    _set(layer, left, left.mT @ u @ s.diag() @ v.mT @ right, right, bases_learn=False)


def narrow(layer: LowRankLayer, rank: int, optimizer: Optimizer) -> None:
    """The best copy of this rank, with a diagonal core; u and v are trained again."""
    p, s, qt = torch.linalg.svd(layer.weight_s.detach(), full_matrices=False)
    left, right = p[:, :rank], qt[:rank].mT
    _carry(optimizer, layer.weight_s, left.mT, right)
    _set(layer, layer.weight_u.detach() @ left, s[:rank], layer.weight_v.detach() @ right, bases_learn=True)


def tolerated(values: Tensor, tolerance: float) -> int:
    """The smallest rank whose dropped singular values have a norm below tolerance times that of all."""
    squares = values.double().square()
    tails = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])  # tails[r]: what rank r drops
    fitting = int((tails > (tolerance**2) * tails[0]).sum())
    return max(min(LEAST, len(values)), fitting)


def _widened(basis: Tensor, gradient: Tensor) -> Tensor:
    """An orthonormal basis of the old one and the gradient, the old columns first; no wider than it is tall."""
    both = torch.cat([basis, gradient / gradient.norm().clamp_min(1e-30)], 1)
    return orthonormal(both[:, : len(basis)])


def _set(layer: LowRankLayer, u: Tensor, s: Tensor, v: Tensor, *, bases_learn: bool) -> None:
    for parameter, value in ((layer.weight_u, u), (layer.weight_s, s), (layer.weight_v, v)):
        put(parameter, value)
    layer.weight_u.requires_grad_(bases_learn)
    layer.weight_v.requires_grad_(bases_learn)


def carry(optimizer: Optimizer, core: nn.Parameter, moved: Callable[[Tensor], Tensor]) -> None:
    """The optimizer's moments of the core, those of squares by way of their roots, in another form."""
    state = optimizer.state.get(core, {})
    for name, moment in state.items():
        if isinstance(moment, Tensor) and moment.ndim:  # a step count has no axes
            state[name] = moved(moment) if name in SIGNED else moved(moment.clamp_min(0).sqrt()).square()


def _carry(optimizer: Optimizer, core: nn.Parameter, left: Tensor, right: Tensor) -> None:
    """In other bases: m -> L m R, of squares v -> (L sqrt(v) R)^2."""
    carry(optimizer, core, lambda moment: left @ (moment.diag() if moment.ndim == 1 else moment) @ right)


def _shape(layer: LowRankLayer) -> Shape:
    return Shape(len(layer.weight_u), len(layer.weight_v))


def _padded(squares: Tensor, shape: Shape) -> Tensor:
    """Zeros for ranks the core does not have, so that every rank up to the limit has an urgency."""
    missing = shape.limit + 1 - len(squares)
    return torch.cat([squares, squares.new_zeros(missing)]) if missing > 0 else squares
