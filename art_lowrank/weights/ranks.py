"""How many ranks every layer gets out of one share of the model's parameters.

Ranks are bought one at a time, the most urgent first, until nothing more fits. After the last rank that saves
parameters a layer may still buy the rest and stay dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import torch
from torch import Tensor

RULES = ("activation", "energy", "uniform")


class Shape(NamedTuple):
    """A weight as the matrix whose rank is chosen."""

    rows: int
    columns: int

    @property
    def dense(self) -> int:
        """Parameters of the plain weight."""
        return self.rows * self.columns

    @property
    def limit(self) -> int:
        """The largest rank whose factors are smaller than the plain weight."""
        return (self.dense - 1) // (self.rows + self.columns + 1)

    def cost(self, rank: int) -> int:
        """Parameters of u, s and v; of the plain weight beyond the limit."""
        return rank * (self.rows + self.columns + 1) if rank <= self.limit else self.dense


def allocate(shapes: Mapping[str, Shape], urgency: Mapping[str, Tensor], room: int, head: str | None) -> dict[str, int]:
    """A rank for every layer; `limit + 1` stands for dense. `room` is what the weights may cost together.

    `urgency[name]` holds one falling number a rank from 1 to limit + 1. The head, the last layer, starts with one rank
    less than it has classes, if that leaves half of the room to the others: with fewer it cannot tell them all apart.
    """
    ranks = dict.fromkeys(shapes, 1)
    if head is not None:
        wanted = max(1, min(shapes[head].rows - 1, shapes[head].limit))
        if shapes[head].cost(wanted) <= room // 2:
            ranks[head] = wanted
    if sum(shape.cost(ranks[name]) for name, shape in shapes.items()) > room:
        ranks = dict.fromkeys(shapes, 1)
    left = room - sum(shape.cost(ranks[name]) for name, shape in shapes.items())
    queue = [_offer(name, ranks[name], urgency[name]) for name in shapes if ranks[name] <= shapes[name].limit]
    heapify(queue)
    while queue:
        _, name = heappop(queue)
        price = shapes[name].cost(ranks[name] + 1) - shapes[name].cost(ranks[name])
        if price > left:
            continue  # and out: the layer's next rank will not become cheaper
        left -= price
        ranks[name] += 1
        if ranks[name] <= shapes[name].limit:
            heappush(queue, _offer(name, ranks[name], urgency[name]))
    return ranks


def _offer(name: str, rank: int, urgency: Tensor) -> tuple[float, str]:
    return -float(urgency[rank]), name  # urgency[k] is that of rank k + 1


def evenly(shape: Shape) -> Tensor:
    """The urgency under which all layers fill the same share of their limit."""
    return -torch.arange(1, shape.limit + 2, dtype=torch.float64) / shape.limit


def by_energy(squares: Tensor, shape: Shape) -> Tensor:
    """Growth of the logarithm of the energy kept, a parameter: the product of the layers' shares becomes large.

    `squares` are the squared singular values, falling, of what is to be kept. A sum of shares instead of their product
    starves layers whose first direction carries most, such as the head.
    """
    shares = squares.double().cumsum(0) / squares.double().sum().clamp_min(1e-300)
    logs = shares.clamp_min(1e-12).log()
    first, kept = logs[:1] - logs[:1] + 1, logs[: shape.limit]  # every layer has a first rank, whatever its urgency
    last = -kept[-1:] / (shape.dense - shape.cost(shape.limit))
    return torch.cat([first, kept.diff() / (shape.rows + shape.columns + 1), last])
