"""Measures taken without the package's own code, and a net with every kind of layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def fixed_seed():
    """Weights and images are the same in every run, and the caller's random state is its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def as_numpy(parameter):
    return parameter.detach().double().numpy()


@pytest.fixture(scope="session")
def product():
    """W = U diag(s) V^T of a low-rank layer in float64, by numpy."""
    return lambda layer: as_numpy(layer.weight_u) * as_numpy(layer.weight_s) @ as_numpy(layer.weight_v).T


@pytest.fixture(scope="session")
def cond64(product):
    """cond(W) on its rank in float64, by numpy."""

    def cond(layer):
        values = np.linalg.svd(product(layer), compute_uv=False)
        return values[0] / values[layer.weight_s.shape[0] - 1]

    return cond


@pytest.fixture(scope="session")
def skewness():
    """How far the columns of both factors are from orthonormal."""

    def skew(layer):
        grams = [as_numpy(q).T @ as_numpy(q) for q in (layer.weight_u, layer.weight_v)]
        return max(np.abs(gram - np.eye(len(gram))).max() for gram in grams)

    return skew


@pytest.fixture
def net():
    """Convolutions plain, strided, dilated, grouped and depthwise, batch normalisation and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding="valid", bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 8, (3, 2), dilation=(1, 2), groups=2, padding="same", padding_mode="reflect"),
        nn.Flatten(),
        nn.Linear(8 * 4 * 3, 20),
        nn.Tanh(),
        nn.Linear(20, 5),
    ).eval()


@pytest.fixture
def images():
    """Six (3, 10, 8) images."""
    return torch.rand(6, 3, 10, 8)
