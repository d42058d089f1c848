"""What validation and the model card say: counts known beforehand, and a card of a small net written out."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from art_lowrank.training.card import card_of, markdown, write
from art_lowrank.training.measure import Right, architecture, fingerprint, measured
from art_lowrank.weights import constrain, factorize

X = torch.eye(3).repeat(3, 1)  # nine images whose logits they are
Y = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0])  # the last three are wrong


def logits(x):
    return x


def test_clean_alone():
    found = measured(nn.Linear(1, 1), logits, X, Y)
    assert found.clean.tolist() == [True] * 6 + [False] * 3
    assert found.robust is None
    assert found.shares() == {"clean": pytest.approx(6 / 9)}


def test_an_image_that_is_wrong_is_not_robust_whatever_the_attack_does_to_it():
    def attack(logits, x, y, number):
        helped = nn.functional.one_hot(y, 3).float()
        helped[1] = helped[1].roll(1)
        return helped

    found = measured(nn.Linear(1, 1), logits, X, Y, attack)
    assert found.robust.tolist() == [True, False] + [True] * 4 + [False] * 3
    assert found.shares() == {"clean": pytest.approx(6 / 9), "robust": pytest.approx(5 / 9)}


def test_batches_have_numbers_of_their_own_and_modes_come_back():
    net, calls = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)), []

    def attack(logits, x, y, number):
        calls.append((len(x), number, net.training))
        return x

    measured(net, net, X, Y, attack, batch=4)
    assert calls == [(4, 0, False), (4, 4, False), (1, 8, False)]
    assert net.training
    assert net[0].training


def test_hashes_tell_apart():
    assert fingerprint(X, Y) == fingerprint(X.clone(), Y.clone())
    others = [(X + 1e-6, Y), (X, Y.flip(0)), (X.reshape(3, 9), Y), (X.double(), Y), (Y, X)]
    assert len({fingerprint(X, Y), *(fingerprint(*pair) for pair in others)}) == 6
    nets = [nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 4, bias=False), nn.Sequential(nn.Linear(3, 4))]
    assert len({architecture(net) for net in nets}) == 4
    assert architecture(nn.Linear(3, 4)) == architecture(nets[0])


@pytest.fixture
def card():
    """Of a net with a tall layer of rank 3 and one that stayed dense."""
    net = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 2))
    factorize(net, ranks={"0": 3})
    constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=1.25)
    right = torch.arange(50) < 40
    results = {"weak": Right(right, torch.arange(50) < 20), "strong": Right(right, torch.zeros(50, dtype=torch.bool))}
    return card_of(net, {"data": "it | that\nway", "lr": 0.5}, results, {"torch": "9.9"})


def test_card(card):
    stored = 3 * (12 + 40 + 1) + 40 + 82
    assert card["parameters"] == {"stored": stored, "dense": 602, "share": round(stored / 602, 6)}
    assert (card["layers"]["0"]["rank"], card["layers"]["0"]["of"]) == (3, 12)
    assert card["layers"]["0"]["cond"] <= 1.25
    assert list(card["layers"]) == ["0"]
    assert card["images"] == 50
    # Wilson's intervals of 40, 20 and 0 of 50, from tables
    assert card["accuracy"]["clean"] == pytest.approx([0.8, 0.6696, 0.8876], abs=1e-4)
    assert card["accuracy"]["weak"] == pytest.approx([0.4, 0.2761, 0.5382], abs=1e-4)
    assert card["accuracy"]["strong"] == pytest.approx([0.0, 0.0, 0.0713], abs=1e-4)


def test_card_for_people_and_machines(card, tmp_path):
    write(card, tmp_path)
    assert json.loads((tmp_path / "card.json").read_text()) == card
    text = (tmp_path / "card.md").read_text()
    assert text == markdown(card)
    for line in (
        "| clean | 80.0 % [67.0, 88.8] |",
        "| weak | 40.0 % [27.6, 53.8] |",
        "| strong | 0.0 % [0.0, 7.1] |",
        f"| 0 | 3 | 12 | {card['layers']['0']['cond']:.4f} |",
        "| data | it \\| that way |",
        "| torch | 9.9 |",
    ):
        assert line in text.splitlines()
    assert "281 of 602 parameters are stored (46.7 %)" in text
    assert "On 50 test images" in text
