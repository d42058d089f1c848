"""Mixed precision in one process: what runs under autocast, what does not, and steps that overflow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_lowrank.training import Diverged, Learner, Objective, Pgd, SingleStep, attach, train
from art_lowrank.training.loop import Course, shuffled
from art_lowrank.training.precision import FULL, Lowered, precision_of
from art_lowrank.weights import factorize, low_rank_layers

CPU = torch.device("cpu")
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def learner(method="condlr", precision="float32", objective=None, optimizer=torch.optim.SGD):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 4))
    factorize(net, keep=0.5)
    steps = optimizer(net.parameters(), lr=0.05)
    handles = attach(method, net, steps, {"cycle": 3} if method == "dlrt" else {})
    return Learner(net, net, steps, objective or Objective(), handles, precision=precision_of(precision, "cpu"))


def scaled(one, scale):
    """Begin with another scale of the loss than 2^16."""
    one.precision.load_state_dict({**one.precision.state_dict(), "scale": scale})


def run(one, epochs=2, **given):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.rand(48, 1, 6, 6, generator=generator), torch.randint(0, 4, (48,), generator=generator)
    return train(one, shuffled(x, y, 16, 0, CPU), Course(epochs, verbose=False), **given)


@pytest.mark.parametrize("attack", [None, Pgd(0.5, steps=2, rank=2), SingleStep(0.1)])
@pytest.mark.parametrize("name", KINDS)
def test_the_model_runs_in_half_precision_and_everything_around_it_does_not(name, attack):
    one, seen = learner(precision=name, objective=Objective("madry" if attack else "standard", attack)), set()
    one.model[5].register_forward_hook(lambda _, given, outputs: seen.add((outputs.dtype, outputs.requires_grad)))
    judged = []

    def loss(outputs, y):
        judged.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs, y)

    object.__setattr__(one.objective, "loss", loss)
    assert run(one)[-1]["cond"] <= 1.5
    assert {dtype for dtype, _ in seen} == {KINDS[name]}
    assert set(judged) == {torch.float32}
    assert all(parameter.dtype == torch.float32 for parameter in one.model.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_it_ends_near_full_precision(name):
    whole, one = learner(), learner(precision=name)
    for net in (whole, one):
        run(net, 1)
    for name, layer in low_rank_layers(whole.model).items():
        assert torch.allclose(low_rank_layers(one.model)[name].exact, layer.exact, atol=0.02)


def test_validation_is_in_full_precision():
    one, seen = learner(precision="bf16"), []

    def validate():
        seen.append(one.logits(torch.rand(2, 1, 6, 6)).dtype)
        return {"clean": 0.5}

    run(one, 1, validate=validate)
    assert seen == [torch.float32]


@pytest.mark.parametrize("method", ["condlr", "dlrt"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_overflows_is_left_out_and_methods_do_not_act(method, fused):
    """Of fused optimizers too, whose own way is to be called and do nothing."""
    one = learner(method, "fp16", optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr, fused=fused))
    scaled(one, 2.0**40)  # far too large: the first steps overflow
    taken, before = [], {name: value.clone() for name, value in one.model.state_dict().items()}
    one.optimizer.register_step_post_hook(lambda *_: taken.append(one.precision.scaler.get_scale()))
    run(one, 1)
    assert not taken
    assert one.handles[-1].steps == 0
    now = one.model.state_dict()
    assert all(torch.allclose(value, now[name], atol=1e-6) for name, value in before.items())
    run(one, 12)
    assert taken
    assert all(bool(torch.isfinite(parameter).all()) for parameter in one.model.parameters())
    assert all(layer.cond() < 100 for layer in low_rank_layers(one.model).values())


def test_gradients_that_never_are_finite_are_divergence():
    one = learner("none", "fp16")
    one.model[3].bias.register_hook(lambda gradient: gradient * float("nan"))
    scaled(one, 2.0**-8)
    with pytest.raises(Diverged, match=r"gradient overflows at any scale in epoch 1, step 3.*lower the learning rate"):
        run(one)


def test_the_scale_is_part_of_the_state(tmp_path):
    one = learner(precision="fp16")
    scaled(one, 2.0**9)
    other = learner(precision="fp16")
    other.load(one.state(), "here")
    run(one, 1), run(other, 1)
    assert other.precision.scaler.get_scale() == one.precision.scaler.get_scale() == 2.0**9
    full = learner()
    assert full.state()["precision"] == {}
    full.load({name: value for name, value in full.state().items() if name != "precision"}, "an older checkpoint")


def test_small_gradients_of_attacks_do_not_vanish_in_float16():
    """A confident net: its gradient, 1e-7 and less, is nothing in float16 without the lift."""
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])

    def logits(x):
        scores = x.flatten(1).to(torch.float16 if torch.is_autocast_enabled("cpu") else torch.float32)
        return torch.stack([scores.sum(1) + 14, -scores.sum(1)], 1)

    found = SingleStep(0.1)
    full = found(logits, x, y, 0)
    half = found(Lowered(logits, torch.float16), x, y, 0)
    assert torch.allclose(full, half)
    assert not torch.allclose(found(lambda x: Lowered(logits, torch.float16)(x), x, y, 0), full)  # no lift


def test_names():
    assert precision_of("float32", "cpu") is FULL
    with pytest.raises(ValueError, match="precision is 'half'; give one of float32, bf16, fp16"):
        precision_of("half", "cpu")


def test_a_process_without_images_keeps_the_scale_ready():
    """The scaler is made at its first use, and steps with the others all the same."""
    precision, net = precision_of("fp16", "cpu"), nn.Linear(2, 1)
    precision.idle(torch.device("cpu"))
    net.weight.grad, before = torch.ones(1, 2) * 65536, net.weight.detach().clone()
    precision.step(torch.optim.SGD(net.parameters(), 1.0))
    assert torch.allclose(net.weight, before - 1)
    FULL.idle(torch.device("cpu"))
