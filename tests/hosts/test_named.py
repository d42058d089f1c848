"""Attacks of ART and torchattacks by their names: what they take, and that the model is what they attack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_lowrank.hosts import art_named


def nets():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 4))


def test_art_knows_its_attacks_and_their_parameters():
    assert {"ProjectedGradientDescent", "FastGradientMethod", "DeepFool"} <= set(art_named.names())
    assert "EvasionAttack" not in art_named.names()
    assert "eps_step" in art_named.parameters("ProjectedGradientDescent")
    assert "estimator" not in art_named.parameters("ProjectedGradientDescent")


def test_an_attack_of_art_goes_through_the_whole_model():
    """ART calls the layers of an nn.Sequential one by one: hooks of the model, which count, would not see it."""
    seen, net, x = [], nets(), torch.rand(5, 3, 4, 4)
    net.register_forward_hook(lambda *_: seen.append(1))
    options = {"norm": 2, "eps": 0.3, "eps_step": 0.1, "max_iter": 3}
    moved = art_named.attack_of("ProjectedGradientDescent", options, net)(x, net(x).argmax(1))
    assert len(seen) >= 4
    assert 0.25 < float((moved - x).flatten(1).norm(dim=1).max()) < 0.3001


def test_torchattacks_says_what_its_attacks_measure():
    pytest.importorskip("torchattacks", reason="the extra art-lowrank[torchattacks] is not installed")
    from art_lowrank.hosts import torchattacks_named

    assert torchattacks_named.norms("PGDL2") == ["L2"]
    assert torchattacks_named.norms("PGD") == ["Linf"]
    assert set(torchattacks_named.norms("APGD")) == {"L2", "Linf"}
    assert {"PGDL2", "APGD", "CW", "Square"} <= set(torchattacks_named.names())
    assert "Attack" not in torchattacks_named.names()
    net, x = nets(), torch.rand(5, 3, 4, 4)
    moved = torchattacks_named.attack_of("PGDL2", {"eps": 0.3, "steps": 3}, net)(x, net(x).argmax(1))
    assert moved.shape == x.shape
