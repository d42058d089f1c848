"""LowRankPGD keeps ART's contract, agrees with the plain function, and is ART's PGD at full rank."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.scikitlearn import ScikitlearnLogisticRegression
from art.exceptions import EstimatorError
from sklearn.linear_model import LogisticRegression

from art_lowrank import LowRankPGD, lowrank_pgd


def attack(estimator, **options):
    return LowRankPGD(estimator, verbose=False, **{"eps": 0.6, "max_iter": 8, "rank": 2, **options})


def norms(delta):
    return np.linalg.norm(delta.reshape(len(delta), -1).astype(np.float64), axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "paper"},
        {"rank": "full"},
        {"early_stop": True},
        {"num_random_init": 3},
        {"eps_step": 0.1, "decay": 0.5},
    ],
    ids=str,
)
def test_agrees_with_the_function(classifier, digits_net, arrays, options):
    x, y = arrays
    names = {"num_random_init": "restarts", "eps_step": "step_size"}
    plain = lowrank_pgd(
        digits_net,
        torch.from_numpy(x),
        torch.from_numpy(y),
        **{"eps": 0.6, "steps": 8, "rank": 2, **{names.get(name, name): value for name, value in options.items()}},
    )
    adversarial = attack(classifier, batch_size=25, **options).generate(x, y)
    assert adversarial.dtype == np.float32
    np.testing.assert_allclose(adversarial, plain.x.numpy(), atol=1e-4)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_full_rank_with_the_estimators_loss_is_arts_pgd(classifier, arrays, decay):
    x, y = arrays
    common = {"norm": 2, "eps": 0.6, "eps_step": 0.15, "max_iter": 6, "decay": decay, "verbose": False}
    theirs = ProjectedGradientDescent(classifier, **common).generate(x, y)
    ours = LowRankPGD(classifier, rank="full", loss="estimator", **common).generate(x, y)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("form", ["index", "column", "one-hot", "list", "tensor"])
def test_labels_in_every_format(classifier, arrays, form):
    x, y = arrays
    forms = {
        "index": y,
        "column": y[:, None],
        "one-hot": np.eye(10)[y],
        "list": y.tolist(),
        "tensor": torch.from_numpy(y),
    }
    np.testing.assert_array_equal(attack(classifier).generate(x, forms[form]), attack(classifier).generate(x, y))


def test_without_labels_predictions_are_attacked(classifier, arrays):
    x, _ = arrays
    predicted = classifier.predict(x).argmax(1)
    np.testing.assert_array_equal(attack(classifier).generate(x), attack(classifier).generate(x, predicted))


def test_targeted(classifier, arrays):
    x, y = arrays
    adversarial = attack(classifier, targeted=True, eps=2.0).generate(x, (y + 1) % 10)
    assert (classifier.predict(adversarial).argmax(1) == (y + 1) % 10).mean() > 0.9
    with pytest.raises(ValueError, match="Target labels `y` need to be provided"):
        attack(classifier, targeted=True).generate(x)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 1), (60, 1, 8, 8), (60, 1, 1, 1), (1, 1, 8, 8)], ids=str)
@pytest.mark.parametrize("kind", [np.float32, bool, int])
def test_masks_of_any_broadcastable_shape(classifier, arrays, shape, kind):
    x, y = arrays
    mask = np.ones(shape, dtype=kind)
    if shape[-1] == 8:
        mask[..., :4] = 0
    adversarial = attack(classifier).generate(x, y, mask=mask)
    untouched = np.broadcast_to(mask == 0, x.shape)
    np.testing.assert_array_equal(adversarial[untouched], x[untouched])
    assert (adversarial != x).any()


def test_inputs_are_left_alone_and_any_number_type_works(classifier, arrays):
    x, y = arrays
    before = x.copy(), y.copy()
    expected = attack(classifier).generate(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    for same in (x.astype(np.float64), torch.from_numpy(x), x.tolist(), np.asfortranarray(x)):
        np.testing.assert_array_equal(attack(classifier).generate(same, y), expected)


def test_the_classifier_is_left_alone(digits_net, make_classifier, arrays):
    x, y = arrays
    net = copy.deepcopy(digits_net).train()
    classifier = make_classifier(net)
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones_like(net[0].bias)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    for loss in ("auto", "estimator"):
        classifier._model.train()
        attack(classifier, loss=loss).generate(x, y)
        assert all(module.training for module in classifier._model.modules())
        assert not net[0].weight.requires_grad
        assert net[0].bias.requires_grad
        assert torch.equal(net[0].bias.grad, torch.ones_like(net[0].bias))
        assert net[2].weight.grad is None
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_batch_size_and_array_radii(classifier, arrays):
    x, y = arrays
    eps = np.linspace(0.1, 0.8, len(x), dtype=np.float32)
    whole = attack(classifier, eps=eps).generate(x, y)
    np.testing.assert_allclose(attack(classifier, eps=eps, batch_size=7).generate(x, y), whole, atol=1e-5)
    np.testing.assert_allclose(attack(classifier, eps=eps.reshape(-1, 1, 1, 1)).generate(x, y), whole, atol=1e-6)
    assert (norms(whole - x) <= eps * (1 + 1e-6)).all()
    assert (norms(attack(classifier, eps=np.float32(0.3)).generate(x, y) - x) <= 0.3 * (1 + 1e-6)).all()


@pytest.mark.parametrize("loss", ["auto", "estimator"])
def test_random_radius_and_zero_radius(classifier, arrays, loss):
    x, y = arrays
    drawn = attack(classifier, random_eps=True, seed=4, loss=loss)
    radii = [norms(drawn.generate(x, y) - x).max() for _ in range(3)]
    assert len(set(radii)) == 3
    assert max(radii) <= 0.6 * (1 + 1e-6)
    assert drawn.eps == 0.6
    np.testing.assert_array_equal(attack(classifier, eps=0, loss=loss).generate(x, y), x)


def test_empty_batch_and_single_image(classifier, arrays):
    x, y = arrays
    assert attack(classifier).generate(x[:0], y[:0]).shape == (0, 1, 8, 8)
    np.testing.assert_allclose(
        attack(classifier).generate(x[3:4], y[3:4]), attack(classifier).generate(x, y)[3:4], atol=1e-5
    )


def test_factors_and_everything(classifier, arrays):
    x, y = arrays
    adversarial, factors = attack(classifier, batch_size=16).generate_factors(x, y)
    np.testing.assert_allclose(factors.apply(torch.from_numpy(x)).numpy(), adversarial, atol=1e-6)
    assert factors.rank == 2
    result = attack(classifier, early_stop=True).generate_attacked(x, y)
    assert result.queries.gradients.float().mean() < 8
    assert np.array_equal(result.success.numpy(), classifier.predict(result.x.numpy()).argmax(1) != y)
    again = attack(classifier, init=factors, max_iter=0, batch_size=16).generate(x, y)
    np.testing.assert_allclose(again, adversarial, atol=1e-5)


def test_preprocessing_and_channels_last(digits_net, make_classifier, arrays):
    x, y = arrays
    standardised = make_classifier(digits_net, preprocessing=(0.5, 2.0))
    by_hand = lowrank_pgd(
        lambda images: digits_net((images - 0.5) / 2.0),
        torch.from_numpy(x),
        torch.from_numpy(y),
        eps=0.6,
        steps=8,
        rank=2,
    )
    np.testing.assert_allclose(attack(standardised).generate(x, y), by_hand.x.numpy(), atol=1e-4)

    class Last(torch.nn.Module):
        def forward(self, images):
            return digits_net(images.movedim(-1, 1))

    classifier = PyTorchClassifier(
        Last(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(8, 8, 1),
        nb_classes=10,
        clip_values=(0, 1),
        channels_first=False,
    )
    found = attack(classifier).generate(np.moveaxis(x, 1, -1), y)
    expected = attack(make_classifier(digits_net)).generate(x, y)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1), expected, atol=1e-6)


def test_numpy_defences_go_through_loss_gradient(digits_net, make_classifier, arrays):
    x, y = arrays
    defended = make_classifier(digits_net, preprocessing_defences=SpatialSmoothing(window_size=2, channels_first=True))
    result = attack(defended).generate_attacked(x, y)
    assert result.loss == "estimator"
    before = (defended.predict(x).argmax(1) == y).mean()
    assert (defended.predict(result.x.numpy()).argmax(1) == y).mean() < before - 0.2
    with pytest.raises(ValueError, match="loss='margin' needs a PyTorchClassifier whose preprocessing is torch"):
        attack(defended, loss="margin")


@pytest.mark.parametrize("early_stop", [False, True])
def test_scikit_learn_estimator_with_flat_images(arrays, early_stop):
    x, y = arrays
    flat = x.reshape(len(x), -1)
    model = LogisticRegression(max_iter=300).fit(flat, y)
    estimator = ScikitlearnLogisticRegression(model, clip_values=(0.0, 1.0))
    found = attack(estimator, image_shape=(8, 8), early_stop=early_stop, eps=2.0)
    adversarial, factors = found.generate_factors(flat, y)
    assert adversarial.shape == flat.shape
    assert factors.rank == 2
    assert (estimator.predict(adversarial).argmax(1) == y).mean() < 0.3
    assert (norms(adversarial - flat) <= 2 * (1 + 1e-6)).all()
    result = found.generate_attacked(flat, y)
    assert np.array_equal(result.success.numpy(), estimator.predict(adversarial).argmax(1) != y)
    assert (result.queries.gradients < 8).any() == early_stop
    assert (result.queries.forwards >= (2 if early_stop else 1) * result.queries.gradients).all()


def test_rows_without_image_shape_are_plain_pgd(arrays):
    x, y = arrays
    flat = x.reshape(len(x), -1)
    estimator = ScikitlearnLogisticRegression(LogisticRegression(max_iter=300).fit(flat, y), clip_values=(0.0, 1.0))
    with pytest.warns(UserWarning, match="image_shape=\\(height, width\\)"):
        adversarial = attack(estimator, rank=0.5).generate(flat, y)
    assert (norms(adversarial - flat) > 0.5).all()


def test_estimators_without_gradients_are_refused():
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    estimator = BlackBoxClassifierNeuralNetwork(lambda x: np.eye(2)[np.zeros(len(x), int)], (1, 8, 8), 2)
    with pytest.raises(EstimatorError):
        LowRankPGD(estimator)


def test_clip_arrays_and_none(digits_net, make_classifier, arrays):
    x, y = arrays
    expected = attack(make_classifier(digits_net)).generate(x, y)
    bounds = np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)
    np.testing.assert_allclose(
        attack(make_classifier(digits_net, clip_values=bounds)).generate(x, y), expected, atol=1e-5
    )
    free = attack(make_classifier(digits_net, clip_values=None)).generate(x, y)
    assert free.min() < 0


def test_parameters_are_complete_and_shown(classifier):
    found = attack(classifier, method="paper")
    assert all(hasattr(found, name) for name in LowRankPGD.attack_params)
    import inspect

    signature = set(inspect.signature(LowRankPGD.__init__).parameters) - {"self", "estimator"}
    assert signature == set(LowRankPGD.attack_params)
    assert "method=paper" in repr(found)


def test_set_params_rolls_back(classifier):
    found = attack(classifier)
    found.set_params(eps=0.4, rank="full")
    assert (found.eps, found.rank) == (0.4, "full")
    for bad in ({"eps": 0.1, "rank": 0}, {"rank": 3, "nonsense": 1}, {"targeted": "yes"}):
        with pytest.raises(ValueError, match=r"rank is 0|nonsense|targeted"):
            found.set_params(**bad)
        assert (found.eps, found.rank, found.targeted) == (0.4, "full", False)


BAD = {
    "eps": [(-1, ValueError), ("1", TypeError), (None, TypeError), (np.array([-1.0]), ValueError)],
    "eps_step": [(0, ValueError), (-0.1, ValueError), ("1", TypeError), (np.array([0.1]), TypeError)],
    "norm": [(1, ValueError), (0, ValueError), ("l2", ValueError), (None, ValueError)],
    "rank": [(0, ValueError), (1.0, ValueError), ("low", ValueError)],
    "max_iter": [(-1, ValueError), (1.5, ValueError)],
    "targeted": [(1, ValueError)],
    "num_random_init": [(1.0, TypeError), (-1, ValueError)],
    "batch_size": [(0, ValueError), (-1, ValueError), (1.5, ValueError)],
    "random_eps": [("no", ValueError)],
    "decay": [(-1.0, ValueError), ("x", ValueError)],
    "loss": [("hinge", ValueError)],
    "method": [("x", ValueError)],
    "init": [("x", ValueError)],
    "exact_rank": [(1, ValueError)],
    "tile": [(0, ValueError), (4, ValueError)],
    "use_budget": [(1, ValueError)],
    "thorough": [("yes", ValueError)],
    "precision": [("half", ValueError)],
    "early_stop": [(1, ValueError)],
    "image_shape": [(8, ValueError), ((0, 8), ValueError)],
    "seed": [(1.5, ValueError)],
    "summary_writer": [(1.0, ValueError)],
    "verbose": [(1, ValueError)],
}


@pytest.mark.parametrize(("name", "value", "kind"), [(n, v, k) for n, cases in BAD.items() for v, k in cases], ids=str)
def test_bad_parameters_have_arts_exception_types(classifier, name, value, kind):
    with pytest.raises(kind) as caught:
        LowRankPGD(classifier, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((2, 1, 8, 8), np.nan), [0, 1], "NaN"),
        (np.full((2, 1, 8, 8), 2.0), [0, 1], "outside the clip range"),
        (np.zeros((2, 1, 8, 8)), [0], "1 labels for 2"),
        (np.zeros((2, 1, 8, 8)), [0, 10], "0 to 9"),
        (np.zeros((2, 1, 8, 8)), [-1, 0], "0 to 9"),
        (np.zeros((2, 1, 8, 8)), np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.zeros((2, 1, 8, 8)), [0.5, 1], "whole class numbers"),
        (np.zeros(8), [0], "first axis counts samples"),
        ([np.zeros((1, 8, 8)), np.zeros((1, 8, 7))], [0, 1], "equal shape"),
    ],
)
def test_bad_inputs(classifier, x, y, message):
    with pytest.raises(ValueError, match=message):
        attack(classifier).generate(x, y)


def test_bad_masks(classifier, arrays):
    x, y = arrays
    for mask in (np.ones((5, 5)), -np.ones((8, 8)), np.array(["a"])):
        with pytest.raises(ValueError, match="mask"):
            attack(classifier).generate(x, y, mask=mask)


def test_one_warning_for_all_batches(make_classifier, arrays):
    x, y = arrays
    constant = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.nn.init.zeros_(constant[1].weight)
    with pytest.warns(UserWarning, match=f"of {len(x)} images were not broken") as warned:
        attack(make_classifier(constant), batch_size=10).generate(x, y)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_refused_parameters_open_no_files(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for bad in ({"summary_writer": 1.0}, {"summary_writer": True, "rank": 0}):
        with pytest.raises(ValueError, match=r"rank is 0|summary_writer"):
            LowRankPGD(classifier, **bad)
    assert not list(tmp_path.iterdir())


def test_errors_use_arts_names(classifier):
    for bad, message in (({"max_iter": -1}, "max_iter is -1"), ({"eps_step": 0}, "eps_step is 0")):
        with pytest.raises(ValueError, match=message):
            LowRankPGD(classifier, **bad)


def test_summary_writer_sees_every_step(classifier, arrays):
    from art.summary_writer import SummaryWriter

    class Remembering(SummaryWriter):
        def __init__(self):
            self.steps, self.resets = [], 0

        @property
        def summary_writer(self):
            return self

        def update(
            self, batch_id, global_step, grad=None, patch=None, estimator=None, x=None, y=None, targeted=False, **kwargs
        ):
            self.steps.append((batch_id, global_step, grad.shape, x.shape, y.shape))

        def reset(self):
            self.resets += 1

    writer = Remembering()
    x, y = arrays
    attack(classifier, summary_writer=writer, batch_size=40, max_iter=3).generate(x, y)
    assert [step[:2] for step in writer.steps] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert writer.steps[0][2:] == ((40, 1, 8, 8), (40, 1, 8, 8), (40, 10))
    assert writer.resets == 1
    with pytest.raises(ValueError, match="one run only"):
        attack(classifier, summary_writer=writer, num_random_init=2)


def test_tensorboard_files(classifier, arrays, tmp_path):
    pytest.importorskip("tensorboardX")
    x, y = arrays
    found = attack(classifier, max_iter=2)
    found.set_params(summary_writer=str(tmp_path))
    found.generate(x, y)
    assert list(tmp_path.rglob("events*"))
    found.set_params(summary_writer=False)
    assert found.summary_writer is None


def test_pickle_deepcopy_and_late_changes(classifier, arrays):
    x, y = arrays
    found = attack(classifier)
    expected = found.generate(x, y)
    np.testing.assert_array_equal(copy.deepcopy(found).generate(x, y), expected)
    found.eps = 0.1
    assert (norms(found.generate(x, y) - x) <= 0.1 * (1 + 1e-6)).all()
    found.eps = -1
    with pytest.raises(ValueError, match="eps is -1"):
        found.generate(x, y)


def test_attack_without_estimator_state_pickles(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr("art.config.ART_DATA_PATH", str(tmp_path))
    params = {name: getattr(attack(classifier), name) for name in LowRankPGD.attack_params}
    assert pickle.loads(pickle.dumps(params)) == params


def test_a_small_model_with_one_output_is_refused(arrays):
    x, y = arrays
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
    estimator = PyTorchClassifier(
        net, loss=torch.nn.BCEWithLogitsLoss(), input_shape=(1, 8, 8), nb_classes=2, clip_values=(0, 1)
    )
    with pytest.raises(ValueError, match="classes >= 2"):
        attack(estimator).generate(x, y % 2)
