"""Two MNIST nets that no setting of the attack was ever chosen on: trained here, the same ones every time."""

from __future__ import annotations

from functools import cache

import torch
from from_peers import zoo
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

OWN_NETS = ("mnist_own_standard", "mnist_own_l2_adv")
RADIUS, STEPS = 1.5, 5  # of the attack in training: plain PGD in the l2 ball
EPOCHS, BATCH, RATE = {"mnist_own_standard": 3, "mnist_own_l2_adv": 3}, 100, 2e-3


@cache
def trained(name: str) -> nn.Module:
    """The net in evaluation mode; it takes pixels in [0, 1] and returns logits."""
    x, y = zoo().images("mnist", "train", None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architecture()
        optimiser = torch.optim.Adam(model.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS[name] * (len(y) // BATCH))
        for _ in range(EPOCHS[name]):
            for rows in torch.randperm(len(y)).split(BATCH):
                images = x[rows] if name == "mnist_own_standard" else attacked(model, x[rows], y[rows])
                optimiser.zero_grad()
                cross_entropy(model(images), y[rows]).backward()
                optimiser.step()
                schedule.step()
    return model.eval().requires_grad_(False)


def architecture() -> nn.Module:
    """Unlike the zoo's: average pools, GELU, group normalisation, no large linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, 1, 2), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 32, 3, 1, 1), nn.GroupNorm(4, 32), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 3, 1, 0), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(576, 10)),
    )


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD on cross-entropy from a random start, written here so that the package's own attack trains nothing."""
    noise = torch.randn_like(x)
    delta = RADIUS * torch.rand(len(x), 1, 1, 1) * noise / lengths(noise)
    for _ in range(STEPS):
        images = (x + delta).clamp(0, 1).requires_grad_()
        gradient = torch.autograd.grad(cross_entropy(model(images), y, reduction="sum"), images)[0]
        delta = delta + 2 * RADIUS / STEPS * gradient / lengths(gradient)
        delta = delta * (RADIUS / lengths(delta)).clamp_max(1)
    return (x + delta).clamp(0, 1)


def lengths(delta: Tensor) -> Tensor:
    """l2 norm of every image, (n, 1, 1, 1)."""
    norm: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
    return norm.clamp_min(1e-12)
