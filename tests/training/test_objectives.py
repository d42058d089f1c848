"""What a step makes small: closed forms of the three losses, and what an attack sees of the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_lowrank.training import Objective, SingleStep


class Fixed:
    """An attack that turns one known batch into another and remembers how it was called."""

    def __init__(self, moved):
        self.moved, self.calls = moved, []

    def __call__(self, logits, x, y, number):
        self.calls.append((logits(x), y, number))
        return self.moved


# Logits are the images: every loss is known by hand.
X = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
MOVED = torch.tensor([[0.0, 0.5], [0.0, 1.0]])
Y = torch.tensor([0, 1])


def logits(x):
    return x


def softmax(row):
    powers = [2.718281828459045**value for value in row]
    return [power / sum(powers) for power in powers]


def crossed(rows):
    found = [
        -torch.log(torch.tensor(softmax(row)[label], dtype=torch.float64))
        for row, label in zip(rows, Y.tolist(), strict=True)
    ]
    return float(sum(found) / len(found))


def divergence(clean, moved):
    total = 0.0
    for p, q in ((softmax(a), softmax(b)) for a, b in zip(clean, moved, strict=True)):
        total += sum(a * float(torch.log(torch.tensor(a / b, dtype=torch.float64))) for a, b in zip(p, q, strict=True))
    return total / len(clean)


def test_standard():
    judged = Objective()(nn.Identity(), logits, X, Y, 0)
    assert float(judged.loss) == pytest.approx(crossed(X.tolist()), rel=1e-6)
    assert int(judged.right) == 2


def test_madry_trains_on_the_attacked_images():
    attack = Fixed(MOVED)
    judged = Objective("madry", attack)(nn.Identity(), logits, X, Y, 41)
    assert float(judged.loss) == pytest.approx(crossed(MOVED.tolist()), rel=1e-6)
    assert int(judged.right) == 1
    assert attack.calls[0][2] == 41


def test_trades_is_clean_loss_and_divergence_of_the_moved_from_the_clean():
    judged = Objective("trades", Fixed(MOVED), beta=3.0)(nn.Identity(), logits, X, Y, 0)
    known = crossed(X.tolist()) + 3 * divergence(X.tolist(), MOVED.tolist())
    assert float(judged.loss) == pytest.approx(known, rel=1e-6)
    assert int(judged.right) == 1
    assert divergence(X.tolist(), MOVED.tolist()) != pytest.approx(divergence(MOVED.tolist(), X.tolist()), rel=1e-2)


@pytest.mark.parametrize("name", ["standard", "madry", "trades"])
def test_labels_as_rows_are_the_same(name):
    attack = None if name == "standard" else Fixed(MOVED)
    one_hot = torch.eye(2)[Y]
    numbers, rows = (Objective(name, attack)(nn.Identity(), logits, X, y, 0) for y in (Y, one_hot))
    assert float(numbers.loss) == pytest.approx(float(rows.loss), rel=1e-6)
    assert int(numbers.right) == int(rows.right)
    if attack is not None:
        assert all(torch.equal(y, Y) for _, y, _ in attack.calls)


def test_the_attack_sees_evaluation_mode_and_the_loss_training_mode():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2))
    modes = []

    def attack(logits, x, y, number):
        modes.append((net.training, net[0].training, net[1].training))
        statistics = net[1].running_mean.clone()
        logits(x)
        assert torch.equal(statistics, net[1].running_mean)
        return x

    net.train()
    for name in ("madry", "trades"):
        Objective(name, attack)(net, net, X, Y, 0)
        assert net.training
        assert net[0].training
        assert net[1].training
    assert modes == [(False, False, False)] * 2
    assert int(net[1].num_batches_tracked) == 3  # once for madry, twice for trades


def test_gradients_flow_through_both_terms_of_trades_but_not_through_the_attack():
    weight = torch.tensor(1.0, requires_grad=True)

    def attack(logits, x, y, number):
        return 2 * logits(x)  # carries a graph

    judged = Objective("trades", attack)(nn.Identity(), lambda x: x * weight, X, Y, 0)
    judged.loss.backward()
    found = weight.grad.clone()

    def by_hand(w):
        clean, moved = X * w, (2 * X) * w
        apart = (clean.softmax(1) * (clean.log_softmax(1) - moved.log_softmax(1))).sum(1).mean()
        return nn.functional.cross_entropy(clean, Y) + 6 * apart

    again = torch.tensor(1.0, requires_grad=True)
    by_hand(again).backward()
    assert float(found) == pytest.approx(float(again.grad), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "objective is 'nonsense'"),
        (("standard", SingleStep(0.1)), "'madry' or 'trades' with an attack"),
        (("madry",), "objective='madry' needs an attack"),
        (("trades",), "objective='trades' needs an attack"),
    ],
)
def test_bad_combinations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Objective(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("beta", [-1.0, float("nan")])
def test_a_weight_below_zero_is_refused(beta):
    with pytest.raises(ValueError, match="beta"):
        Objective("trades", SingleStep(0.1), beta=beta)


class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.learnt, self.fixed = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        return x * self.learnt * self.fixed


@pytest.mark.parametrize("error", [None, RuntimeError("in the attack")])
def test_the_model_is_frozen_while_it_is_attacked(error):
    model, seen = Raising(), []

    def attack(logits, x, y, number):
        seen.extend(parameter.requires_grad for parameter in model.parameters())
        logits(x.clone().requires_grad_()).sum().backward()  # as hosts do it
        if error is not None:
            raise error
        return MOVED

    objective = Objective("madry", attack)
    if error is None:
        objective(model, model, X, Y, 0).loss.backward()
        assert model.learnt.grad is not None
    else:
        with pytest.raises(RuntimeError, match="in the attack"):
            objective(model, model, X, Y, 0)
        assert model.learnt.grad is None
    assert seen == [False, False]
    assert (model.learnt.requires_grad, model.fixed.requires_grad) == (True, False)
