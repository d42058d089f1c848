"""How tight interval propagation is (arXiv 2306.10426): the exact output box of the locally linear net over IBP's.

At an image the net is linear within its activation pattern: z = J x + const. Its output box has the radius |J| r for an
input box of radius r; propagating intervals layer by layer gives |W_L| D |W_(L-1)| ... |W_1| r, with D the slopes of
the activations. Their ratio is at most 1, and 1 where nothing is lost. Outputs are differences to the label's.
"""

from __future__ import annotations

import copy

import torch
from from_others import CondConv2d, CondLinear, Factored
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from worlds import Split

from art_lowrank.record import JSON
from art_lowrank.weights import densify, low_rank_layers


def tightness_of(model: nn.Module, seen: Split, asked: JSON) -> dict[str, JSON]:
    """Mean over images and wrong classes, with the weights as matrices and, if low-rank, as two thin factors."""
    whole = plain(copy.deepcopy(model))
    found: dict[str, JSON] = {"matrices": summary(whole, seen, float(str(asked)))}
    if low_rank_layers(model):
        found["factors"] = summary(densify(copy.deepcopy(model), pairs=True), seen, float(str(asked)))
    return found


def plain(model: nn.Module) -> nn.Module:
    """The same net of dense layers."""
    for name, module in list(model.named_children()):
        if isinstance(module, Factored):
            setattr(model, name, dense(module))
    return densify(model) if low_rank_layers(model) else model


def dense(layer: Factored) -> nn.Module:
    if isinstance(layer, CondConv2d):
        raise TypeError("tightness is measured on linear layers of CondLR only")
    assert isinstance(layer, CondLinear)
    new = nn.Linear(layer.v.shape[0], layer.u.shape[0], layer.bias is not None)
    with torch.no_grad():
        new.weight.copy_(layer.weight())
        if layer.bias is not None:
            new.bias.copy_(layer.bias)
    return new


def summary(model: nn.Module, seen: Split, eps: float) -> dict[str, JSON]:
    shares = tightness(flat(model), seen.x, seen.y, eps)
    return {"mean": float(shares.mean()), "sd": float(shares.std())}


def flat(model: nn.Module) -> list[nn.Module]:
    """The layers in their order."""
    children = list(model.children())
    if not children:
        return [model]
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"{type(model).__name__} is not a sequence of layers")
    return [layer for child in children for layer in flat(child)]


@torch.no_grad()
def tightness(layers: list[nn.Module], x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(n,): the ratio of the two radii, the mean over the wrong classes, for a box of +-eps within [0, 1]."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    radius = (high - low) / 2
    ratios = []
    for one, label, width in zip(x.split(1), y, radius.split(1), strict=True):
        *before, last = layers
        assert isinstance(last, nn.Linear)
        margins = last.weight - last.weight[label]  # the last layer and the differences are one matrix
        slopes, shapes = pattern(before, one)
        exact = (jacobian(before, slopes, shapes, margins) * width.flatten()).abs().sum(1)
        loose = linear(widened(before, slopes, width), margins.abs())[0]
        wrong = torch.arange(len(margins)) != label
        ratios.append((exact[wrong] / loose[wrong].clamp_min(1e-8)).mean())
    return torch.stack(ratios)


def pattern(layers: list[nn.Module], x: Tensor) -> tuple[dict[int, Tensor], list[torch.Size]]:
    """The slope of every activation at x, and what goes into every layer."""
    slopes, shapes = {}, []
    for i, layer in enumerate(layers):
        shapes.append(x.shape)
        if isinstance(layer, nn.ReLU | nn.LeakyReLU):
            slope = getattr(layer, "negative_slope", 0.0)
            slopes[i] = torch.where(x > 0, 1.0, slope)
        x = layer(x)
    return slopes, shapes


def widened(layers: list[nn.Module], slopes: dict[int, Tensor], width: Tensor) -> Tensor:
    """The radius after every layer but the last, interval by interval."""
    for i, layer in enumerate(layers):
        if i in slopes:
            width = width * slopes[i]
        elif isinstance(layer, nn.Linear):
            width = linear(width, layer.weight.abs())
        elif isinstance(layer, nn.Conv2d):
            width = conv2d(width, layer.weight.abs(), None, layer.stride, layer.padding)
        elif isinstance(layer, nn.Flatten):
            width = width.flatten(1)
        else:
            raise TypeError(f"{type(layer).__name__} is none of the layers that are propagated through")
    return width


def jacobian(layers: list[nn.Module], slopes: dict[int, Tensor], shapes: list[torch.Size], rows: Tensor) -> Tensor:
    """rows times the net's matrix at this pattern, (classes, pixels): backwards through the layers."""
    back = rows
    for i, layer in reversed(list(enumerate(layers))):
        shape = shapes[i][1:]
        if i in slopes:
            back = back.reshape(-1, *shape) * slopes[i]
        elif isinstance(layer, nn.Linear):
            back = back @ layer.weight
        elif isinstance(layer, nn.Conv2d):
            back = torch.nn.grad.conv2d_input((len(back), *shape), layer.weight, back, layer.stride, layer.padding)
        else:
            back = back.reshape(-1, *shape)
    return back.flatten(1)
