"""The demo's picture: clean image, perturbation, adversarial image, and the perturbation's singular values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from art_lowrank.attack import Attacked
from art_lowrank.demo.digits import Split
from art_lowrank.spectra import singular_values

COLUMNS = 5


def draw(net: nn.Module, data: Split, attacked: Attacked, path: Path) -> None:
    """Write the PNG: the first images that the attack turned from right to wrong."""
    from matplotlib.figure import Figure

    with torch.no_grad():
        before, after = net(data.x).argmax(1), net(attacked.x).argmax(1)
    turned = ((before == data.y) & (after != data.y)).nonzero().flatten()[:COLUMNS].tolist()
    figure = Figure(figsize=(2.0 * max(1, len(turned)), 8.6), layout="constrained")
    axes = figure.subplots(4, max(1, len(turned)), squeeze=False)
    for column, i in enumerate(turned):
        delta = attacked.x[i, 0] - data.x[i, 0]
        _image(axes[0, column], data.x[i, 0], f"clean: {before[i]}", cmap="gray", vmin=0, vmax=1)
        _image(axes[1, column], delta, f"perturbation, |.| = {delta.norm():.2f}", cmap="RdBu", vmin=-0.3, vmax=0.3)
        _image(axes[2, column], attacked.x[i, 0], f"adversarial: {after[i]}", cmap="gray", vmin=0, vmax=1)
        _spectrum(axes[3, column], attacked.factors.dense()[i, 0], delta, first=column == 0)
    figure.suptitle(f"{attacked.attack}, rank {attacked.factors.rank}", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _image(axis: Any, pixels: torch.Tensor, title: str, **style: Any) -> None:
    axis.imshow(pixels.numpy(), **style)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def _spectrum(axis: Any, factors: torch.Tensor, realised: torch.Tensor, first: bool) -> None:
    """Singular values of the factors' product, and of what the box left of it."""
    numbers = range(1, min(factors.shape) + 1)
    axis.plot(numbers, singular_values(realised).numpy(), "o-", markersize=4, color="tab:orange", label="after the box")
    axis.plot(numbers, singular_values(factors).numpy(), "s--", markersize=4, color="tab:blue", label="factors")
    axis.set_xlabel("singular value no.", fontsize=8)
    axis.tick_params(labelsize=8)
    if first:
        axis.legend(fontsize=7)
