"""The two nets of the GPU benchmark, with random weights: what a step costs does not depend on them."""

from __future__ import annotations

from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn


class Block(nn.Module):
    """A pre-activation block of a wide residual net (Zagoruyko and Komodakis 2016)."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(fan_in), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False) if fan_in != fan_out else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.first(x)
        passed: Tensor = x if self.shortcut is None else self.shortcut(active)
        return passed + self.body(active)


def wide_resnet(depth: int = 28, width: int = 10) -> nn.Module:
    """WRN-depth-width for ten classes."""
    blocks, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    for stage, (fan_in, fan_out) in enumerate(pairwise(widths)):
        for i in range(blocks):
            layers.append(Block(fan_out if i else fan_in, fan_out, 2 if stage and not i else 1))
    head = [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    return nn.Sequential(*layers, *head).eval()


def net(name: str) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """A net in evaluation mode, and the shape of its batch."""
    torch.manual_seed(0)
    if name == "wrn-28-10":
        return wide_resnet(), (256, 3, 32, 32)
    if name == "resnet-50":
        return torchvision.models.resnet50(weights=None).eval(), (64, 3, 224, 224)
    if name == "tiny":  # to try the script without a GPU
        return wide_resnet(10, 1), (8, 3, 32, 32)
    raise SystemExit(f"no net {name!r}; choose wrn-28-10, resnet-50 or tiny")


def only(name: str) -> nn.Module:
    """The net alone, as an evaluation asks for it: `nets:only[name=wrn-28-10]`."""
    return net(name)[0]
