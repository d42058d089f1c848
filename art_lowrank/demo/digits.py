"""scikit-learn's handwritten digits, and a small net trained on them in seconds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TRAIN = 1297  # of the 1797 images; the last 500 are for testing


class Split(NamedTuple):
    """Images (n, 1, 8, 8) in [0, 1] and their class numbers (n,)."""

    x: Tensor
    y: Tensor


def digits() -> tuple[Split, Split]:
    """Training and test images, in the data set's own order."""
    from sklearn.datasets import load_digits  # a second to import, which other data need not wait for

    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    return Split(x[:TRAIN], y[:TRAIN]), Split(x[TRAIN:], y[TRAIN:])


def small_net() -> nn.Sequential:
    """Two convolutions and a linear layer, about 11,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def trained_net(train: Split, epochs: int = 20, seed: int = 0) -> nn.Sequential:
    """The net after plain training. Weights and order come from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = small_net()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(train.x)).split(128):
                loss = cross_entropy(net(train.x[rows]), train.y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return net.eval()


def accuracy(net: nn.Module, data: Split) -> float:
    """Share of images the net gets right."""
    with torch.no_grad():
        return float((net(data.x).argmax(1) == data.y).float().mean())
