"""ART copies and pickles classifiers; low-rank layers go along."""

from __future__ import annotations

import copy

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_lowrank.demo.digits import digits, small_net
from art_lowrank.weights import constrain, factorize, low_rank_layers, ranks_of


class Net(nn.Module):
    """ART runs the children of a Sequential one by one; people wrap it."""

    def __init__(self):
        super().__init__()
        self.layers = small_net()

    def forward(self, x):
        return self.layers(x)


def classifier():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    factorize(net, keep=0.5, optimizer=optimizer)
    constrain(net, optimizer)
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))


def test_clone_for_refitting_starts_anew_with_the_same_ranks():
    data = digits()[0]
    x, y = data.x.numpy()[:200], data.y.numpy()[:200]
    original = classifier()
    clone = original.clone_for_refitting()
    assert ranks_of(clone.model) == ranks_of(original.model) != {}
    for old, new in zip(low_rank_layers(original.model).values(), low_rank_layers(clone.model).values(), strict=True):
        assert not torch.equal(old.weight_u, new.weight_u)
        assert new.max_cond == old.max_cond == 1.5
        assert new.cond() < 1 + 1e-5, "reset_parameters gives a flat spectrum"
    constrain(clone.model, clone.optimizer)  # hooks do not go along
    before = copy.deepcopy(original.model.state_dict())
    clone.fit(x, y, batch_size=32, nb_epochs=3)
    assert max(layer.cond() for layer in low_rank_layers(clone.model).values()) <= 1.5
    assert all(torch.equal(value, before[name]) for name, value in original.model.state_dict().items())


def test_a_deep_copy_predicts_alike():
    x = digits()[1].x.numpy()[:50]
    original = classifier()
    np.testing.assert_array_equal(copy.deepcopy(original).predict(x), original.predict(x))
