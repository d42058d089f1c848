"""`LowRankTrainer(distributed=True)`: two processes train the classifier that one trains. As a script, one of two."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_lowrank.hosts.art_trainer import LowRankTrainer
from art_lowrank.training import Indexed, Pgd, SingleStep, WarmStart

SETTINGS = {
    "plain": {"objective": "madry", "attack": SingleStep(0.1)},
    "warm": {"objective": "trades", "attack": Pgd(0.5, steps=2), "warm_start": WarmStart(rank=2, ramp=1.5)},
    "generator": {"objective": "madry", "attack": Pgd(0.5, steps=2), "warm_start": True, "method": "dlrt"},
}


def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(50, 1, 16, 16, generator=generator)
    return x.numpy(), np.arange(50) % 4


def classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 16), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9)
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 16, 16), 4, optimizer, clip_values=(0, 1))


def trained(name, distributed):
    (x, y), host = data(), classifier()
    trainer = LowRankTrainer(host, keep=0.5, verbose=False, distributed=distributed, **SETTINGS[name])
    if name == "generator":
        loader = DataLoader(Indexed(TensorDataset(torch.from_numpy(x), torch.from_numpy(y))), 16, shuffle=True)
        trainer.fit_generator(loader, 2, validation_data=(x[:9], y[:9]))
    else:
        trainer.fit(x, y, batch_size=16, nb_epochs=2, validation_data=None if name == "warm" else (x[:9], y[:9]))
    history = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in trainer.history]
    return {"outputs": host.predict(x), "history": history, "weights": host.model.state_dict()}


@pytest.fixture(scope="module")
def found(tmp_path_factory, launch):
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("two")
    launch("2", Path(__file__), folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_train_the_classifier_that_one_trains(found, name):
    one = trained(name, distributed=False)
    for mine in found:
        assert np.allclose(mine[name]["outputs"], one["outputs"], atol=2e-3)
    first, second = (mine[name] for mine in found)
    assert first["history"] == second["history"]
    assert all(torch.equal(value, second["weights"][key]) for key, value in first["weights"].items())
    assert [epoch["loss"] for epoch in first["history"]] == pytest.approx(
        [epoch["loss"] for epoch in one["history"]], abs=1e-3
    )


def test_without_a_launcher_it_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone, one = (trained("plain", distributed) for distributed in (True, False))
    assert np.array_equal(alone["outputs"], one["outputs"])


def test_what_cannot_be_distributed_is_one_line(monkeypatch):
    host = classifier()
    with pytest.raises(ValueError, match="distributed is 2; give True or False"):
        LowRankTrainer(host, distributed=2)
    inner = AdversarialTrainerMadryPGD(host, nb_epochs=1)
    with pytest.raises(ValueError, match="AdversarialTrainerMadryPGD trains in one process; leave distributed out"):
        LowRankTrainer(host, trainer=inner, distributed=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        ValueError, match="2 processes were launched, and accelerate is not installed; pip install 'art-low"
    ):
        LowRankTrainer(host, verbose=False, distributed=True).fit(*data(), nb_epochs=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save({name: trained(name, distributed=True) for name in SETTINGS}, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
