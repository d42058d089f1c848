"""ART estimators over the small digits net."""

from __future__ import annotations

import pytest
import torch
from art.estimators.classification import PyTorchClassifier


@pytest.fixture
def classifier(digits_net):
    """A PyTorchClassifier that takes digits in [0, 1]."""
    return art_classifier(digits_net)


@pytest.fixture
def arrays(test_digits):
    """60 test digits as NumPy arrays."""
    return test_digits.x[:60].numpy(), test_digits.y[:60].numpy()


def art_classifier(net, **options):
    settings = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0.0, 1.0), **options}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    return PyTorchClassifier(net, loss=torch.nn.CrossEntropyLoss(), optimizer=optimizer, **settings)


@pytest.fixture
def make_classifier():
    """PyTorchClassifier over a net, with ART's options."""
    return art_classifier
