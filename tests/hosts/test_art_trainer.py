"""`LowRankTrainer` as one of ART's trainers: what it keeps, takes, computes and refuses."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.defences.preprocessor import GaussianAugmentation
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.defences.trainer import AdversarialTrainer, Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_lowrank import LowRankPGD, LowRankTrainer
from art_lowrank.demo.digits import digits
from art_lowrank.training import Pgd, SingleStep
from art_lowrank.training.loop import shuffled
from art_lowrank.weights import factorize, low_rank_layers, ranks_of

TRAIN = digits()[0]
X, Y = TRAIN.x[:160].numpy(), TRAIN.y[:160].numpy()
RANKS = {"0": 4, "3": 8}


def made_net(dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(512, 24),
            nn.Dropout(dropout),
            nn.Tanh(),
            nn.Linear(24, 10),
        )


def made(dropout=0.0, lr=3e-3, loss=None, net=None, **options):
    net = made_net(dropout) if net is None else net
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    settings = {"input_shape": (1, 8, 8), "nb_classes": 10, "clip_values": (0.0, 1.0), "device_type": "cpu"}
    return PyTorchClassifier(net, loss=loss or nn.CrossEntropyLoss(), optimizer=optimizer, **{**settings, **options})


def trained(classifier, *, fit=None, **options):
    trainer = LowRankTrainer(classifier, **{"keep": 0.5, "verbose": False, **options})
    trainer.fit(X, Y, **{"batch_size": 32, "nb_epochs": 2, **(fit or {})})
    return trainer


def weights(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


def equal(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_is_a_trainer_and_keeps_the_callers_objects():
    classifier = made()
    model, optimizer, bias = classifier.model, classifier.optimizer, classifier.model[6].bias
    trainer = trained(classifier)
    assert isinstance(trainer, Trainer)
    assert trainer.get_classifier() is classifier
    assert trainer.classifier is classifier
    assert classifier.model is model
    assert classifier.optimizer is optimizer
    assert model[6].bias is bias
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert low_rank_layers(model)
    assert np.array_equal(trainer.predict(X[:9]), classifier.predict(X[:9]))
    assert trainer.predict(X[:9], batch_size=2).shape == (9, 10)
    assert (trainer.predict(X).argmax(1) == Y).mean() > 0.5
    assert [epoch["epoch"] for epoch in trainer.history] == [1, 2]


def test_a_model_that_is_one_layer_is_exchanged_whole():
    net = nn.Linear(64, 10)
    classifier = made(net=net, input_shape=(64,))
    LowRankTrainer(classifier, ranks={"": 3}, verbose=False).fit(X.reshape(len(X), -1), Y, nb_epochs=1)
    assert type(classifier.model).__name__ == "LowRankLinear"
    assert classifier.predict(X[:5].reshape(5, -1)).shape == (5, 10)


def test_is_a_plain_loop_over_the_same_batches_on_inputs_preprocessed_once():
    classifier = made(preprocessing=(0.3, 0.25))
    trainer = trained(
        classifier, method="none", ranks=RANKS, seed=5, fit={"validation_data": (X[:40], Y[:40]), "batch_size": 48}
    )
    net = factorize(made_net(), ranks=RANKS)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    batches = shuffled(torch.from_numpy(X), torch.from_numpy(Y), 48, 5, torch.device("cpu"))
    losses, clean = [], []
    for epoch in range(2):
        total = 0.0
        for x, y, _ in batches(epoch):
            loss = nn.functional.cross_entropy(net((x - 0.3) / 0.25), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(x)
        losses.append(total / len(X))
        outputs = net((torch.from_numpy(X[:40]) - 0.3) / 0.25)
        clean.append(float((outputs.argmax(1).numpy() == Y[:40]).mean()))
    for name, value in net.state_dict().items():
        assert torch.allclose(value, classifier.model.state_dict()[name], atol=1e-6), name
    assert [epoch["loss"] for epoch in trainer.history] == pytest.approx(losses, rel=1e-4)
    assert [epoch["clean"] for epoch in trainer.history] == clean


def test_an_attack_and_the_search_for_ranks_see_preprocessed_inputs():
    classifier = made(preprocessing=(0.3, 0.25))
    seen = []

    def attack(logits, x, y, number):
        known = classifier.model((x - 0.3) / 0.25)
        seen.append((len(x), float((logits(x) - known).abs().max().detach())))
        return x

    looked = []
    hook = classifier.model[0].register_forward_pre_hook(lambda _, inputs: looked.append(inputs[0].detach().clone()))
    trained(classifier, attack=attack, objective="madry", fit={"nb_epochs": 1, "validation_data": (X[:33], Y[:33])})
    hook.remove()
    assert [number for number, _ in seen] == [32] * 5 + [33]
    assert max(error for _, error in seen) < 1e-5
    assert float(looked[0].min()) == pytest.approx(-0.3 / 0.25, rel=1e-5)


class Halving(PreprocessorPyTorch):
    """Darker images in training, the images as they are in prediction; counts what it was asked for."""

    def __init__(self):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=True, apply_predict=False)

    def forward(self, x, y=None):
        return 0.5 * x, y


def test_what_preprocessing_does_in_fit_alone_is_done_in_training_alone():
    classifier, seen = made(preprocessing_defences=Halving()), []
    classifier.model[0].register_forward_pre_hook(
        lambda module, inputs: seen.append((module.training, float(inputs[0].max())))
    )
    trained(classifier, method="none", ranks={"3": 8}, fit={"nb_epochs": 1, "validation_data": (X[:20], Y[:20])})
    assert seen == [(True, 0.5)] * 5 + [(False, 1.0)]


def test_preprocessing_outside_torch_is_refused():
    with pytest.raises(ValueError, match="preprocessing is not all torch"):
        LowRankTrainer(made(preprocessing_defences=GaussianAugmentation(augmentation=False)))


def test_labels_in_every_form_are_the_same():
    found = []
    for y in (Y, Y[:, None], np.eye(10, dtype=np.float32)[Y], Y.astype(np.int32)):
        classifier = made()
        trainer = LowRankTrainer(classifier, keep=0.5, verbose=False)
        trainer.fit(X, y, batch_size=32, nb_epochs=1, validation_data=(X[:20], y[:20]))
        found.append((classifier, trainer.history[0]["clean"]))
    assert all(equal(found[0][0], other) and clean == found[0][1] for other, clean in found[1:])


def test_a_loss_on_rows_of_labels():
    class Squares(nn.Module):
        def forward(self, outputs, y):
            return (outputs.softmax(1) - nn.functional.one_hot(y, 10) if y.ndim == 1 else outputs - y).square().mean()

    trainer = trained(made(loss=Squares()), attack=SingleStep(0.1), objective="madry")
    assert trainer.history[1]["loss"] < trainer.history[0]["loss"]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("method", ["condlr", "dlrt", "none", "nuclear"])
def test_follows_from_the_seed_and_leaves_global_random_states(method, fresh):
    found = []
    for number, seed in ((1, 0), (2, 0), (3, 1)):
        classifier = made(dropout=0.3)
        torch.manual_seed(number), np.random.seed(number), random.seed(number)
        before = torch.get_rng_state(), np.random.get_state(), random.getstate()
        attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=2, num_random_init=1)
        attack.set_params(verbose=False)
        trained(
            classifier, method=method, fresh=fresh, seed=seed, attack=attack, objective="madry", fit={"nb_epochs": 1}
        )
        assert torch.equal(before[0], torch.get_rng_state())
        assert all(np.array_equal(a, b) for a, b in zip(before[1], np.random.get_state(), strict=True))
        assert before[2] == random.getstate()
        found.append(classifier)
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


ATTACKS = {
    "PGD": lambda c: ProjectedGradientDescent(c, eps=0.1, eps_step=0.05, max_iter=2, num_random_init=1),
    "FGM": lambda c: FastGradientMethod(c, eps=0.1),
    "LowRankPGD": lambda c: LowRankPGD(c, eps=0.3, rank=2, max_iter=2),
    "Pgd": lambda c: Pgd(0.3, steps=2),
    "SingleStep": lambda c: SingleStep(0.1),
}


@pytest.mark.parametrize("objective", ["madry", "trades"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_and_objectives(name, objective, capfd):
    classifier = made()
    attack = ATTACKS[name](classifier)
    before = {name: value for name, value in vars(attack).items() if not name.startswith("_")}
    inner = getattr(getattr(attack, "_attack", None), "verbose", None)
    trainer = trained(classifier, attack=attack, objective=objective, fit={"validation_data": (X[:30], Y[:30])})
    assert capfd.readouterr().err == ""  # no bar of the attack's either
    after = {name: value for name, value in vars(attack).items() if not name.startswith("_")}
    assert before == after
    assert getattr(getattr(attack, "_attack", None), "verbose", None) is inner
    for epoch in trainer.history:
        assert 0 <= epoch["robust"] <= epoch["clean"] <= 1
        assert epoch["cond"] <= 1.5


def test_adversarial_training_hardens():
    """Against clean training with as many steps, measured by another attack."""
    robust = []
    for options in ({}, {"attack": SingleStep(0.2), "objective": "madry"}):
        classifier = made(lr=1e-2)
        trained(classifier, fit={"nb_epochs": 12}, **options)
        judge = FastGradientMethod(classifier, eps=0.2)
        robust.append((classifier.predict(judge.generate(X, Y)).argmax(1) == Y).mean())
    assert robust[1] > robust[0] + 0.05


def test_the_bound_holds_before_every_step():
    classifier, seen = made(lr=0.1), []

    def attack(logits, x, y, number):
        for layer in low_rank_layers(classifier.model).values():
            u, s, v = (getattr(layer, f"weight_{part}").detach().double().numpy() for part in "usv")
            values = np.linalg.svd(u * s @ v.T, compute_uv=False)[: layer.rank]
            seen.append(values[0] / values[-1])
        return x

    trained(classifier, attack=attack, objective="madry", max_cond=1.2, fit={"nb_epochs": 1})
    assert len(seen) == 5 * len(ranks_of(classifier.model))
    assert 1.1 < max(seen) <= 1.2


def test_a_progress_bar_only_when_asked_for(capfd):
    trained(made(), verbose=True)
    assert "epochs: 100%" in capfd.readouterr().err
    trained(made())
    assert capfd.readouterr().err == ""


def test_fit_again_trains_on():
    classifier = made()
    trainer = trained(classifier)
    layers = low_rank_layers(classifier.model)
    before, optimizer_hooks = weights(classifier), len(classifier.optimizer._optimizer_step_post_hooks)
    trainer.fit(X, Y, nb_epochs=1)
    assert low_rank_layers(classifier.model) == layers
    assert len(classifier.optimizer._optimizer_step_post_hooks) == optimizer_hooks
    assert any(not torch.equal(value, before[name]) for name, value in weights(classifier).items())


BAD_OPTIONS = [
    ({"warm_start": True}, "warm_start=True needs an attack whose ball it works in"),
    ({"warm_start": "yes"}, "warm_start is 'yes'"),
    (
        {"warm_start": True, "attack": Pgd(0.1, "nuc"), "objective": "madry"},
        "takes eps and norm .2 or inf. from the attack",
    ),
    ({"tighten": 1.5}, "tighten is 1.5"),
    ({"tighten": float("nan")}, "tighten is nan"),
    ({"method": "cond"}, "method is 'cond'; give one of 'condlr'"),
    ({"options": {"tolerance": 0.2}}, "'condlr' has no option 'tolerance'"),
    ({"objective": "madry"}, "objective='madry' needs an attack"),
    ({"objective": "free"}, "objective is 'free'"),
    ({"attack": SingleStep(0.1)}, "'madry' or 'trades' with an attack"),
    ({"attack": "pgd", "objective": "madry"}, "attack is 'pgd'"),
    ({"attack": Pgd(0.1), "objective": "trades", "beta": -1.0}, "beta"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_at_once(options, message):
    classifier = made()
    before = weights(classifier)
    with pytest.raises(ValueError, match=message) as caught:
        LowRankTrainer(classifier, **options)
    assert "\n" not in str(caught.value)
    assert before.keys() == weights(classifier).keys()


BAD_FITS = [
    ({"keep": 1.5}, {}, r"keep is 1.5; .* in \(0, 1\]"),
    ({"keep": 0.001}, {}, r"keep=0.001 cannot be reached.* give keep >= 0\.\d+"),
    ({"max_cond": 0.5}, {}, "max_cond is 0.5; a condition number is at least 1"),
    ({"ranks": {"nowhere": 3}}, {}, "ranks names 'nowhere'"),
    ({"skip": ["nowhere"]}, {}, "skip names 'nowhere'"),
    ({}, {"x": X[:3]}, "x holds 3 samples and y 160 labels"),
    ({}, {"x": X[:0], "y": Y[:0]}, "x holds 0 samples"),
    ({}, {"batch_size": 0}, "batch_size is 0"),
    ({}, {"nb_epochs": 0}, "nb_epochs is 0"),
    ({}, {"nb_epochs": 1.5}, "nb_epochs is 1.5"),
    ({}, {"y": Y + 5}, "label"),
    ({}, {"y": Y - 1}, "label"),
    ({}, {"y": np.zeros((160, 3), np.float32)}, "label|classes"),
    ({}, {"x": np.full_like(X, np.nan)}, "NaN"),
    ({}, {"patience": 2}, "validation"),
]


@pytest.mark.parametrize(("options", "fit", "message"), BAD_FITS)
def test_bad_input_of_fit_is_one_line_and_changes_nothing(options, fit, message):
    classifier = made()
    before = weights(classifier)
    with pytest.raises(ValueError, match=message) as caught:
        LowRankTrainer(classifier, **{"keep": 0.5, "verbose": False, **options}).fit(**{"x": X, "y": Y, **fit})
    assert "\n" not in str(caught.value)
    after = weights(classifier)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_unknown_argument_of_fit_is_a_type_error():
    with pytest.raises(TypeError, match="fit has no argument 'epochs'"):
        LowRankTrainer(made(), keep=0.5, verbose=False).fit(X, Y, epochs=3)


def test_what_belongs_to_another_classifier_is_refused():
    classifier, other = made(), made()
    for attack in (FastGradientMethod(other, eps=0.1), LowRankPGD(other)):
        with pytest.raises(ValueError, match="attack was made for another classifier"):
            LowRankTrainer(classifier, attack=attack, objective="madry")
    foreign = AdversarialTrainer(other, FastGradientMethod(other, eps=0.1))
    with pytest.raises(ValueError, match="trainer was made for another classifier"):
        LowRankTrainer(classifier, trainer=foreign)


@pytest.mark.parametrize("kind", [LowRankPGD, FastGradientMethod])
def test_a_targeted_attack_is_refused(kind):
    """It would take the true labels for targets and make images easier; ART's trainers refuse it too."""
    classifier = made()
    with pytest.raises(ValueError, match="targeted"):
        LowRankTrainer(classifier, attack=kind(classifier, targeted=True), objective="madry")


def test_classifiers_that_cannot_be_trained_are_refused():
    net = made_net()
    bare = PyTorchClassifier(net, loss=nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10)
    with pytest.raises(ValueError, match="Optimizer of classifier is currently None"):
        LowRankTrainer(bare)
    with pytest.raises(ValueError, match="is a Sequential; low-rank training needs a PyTorchClassifier"):
        LowRankTrainer(net)
    flat = made(net=nn.Sequential(nn.Flatten(), nn.LayerNorm(64)))
    with pytest.raises(ValueError, match="no Linear or Conv2d"):
        LowRankTrainer(flat, verbose=False).fit(X, Y)
