"""What the hosts have of curves, other norms and modes, and that they agree with the plain functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentNumpy, ProjectedGradientDescentPyTorch

from art_lowrank import LowRankPGD, eps_curve, lowrank_pgd, rank_curve

MODES = [
    {"norm": math.inf, "eps": 0.1},
    {"norm": math.inf, "eps": 0.1, "rank": 4},
    {"norm": math.inf, "eps": 0.1, "method": "clipped-latent"},
    {"norm": "nuc", "eps": 0.8},
    {"norm": "nuc", "eps": 0.8, "method": "frank-wolfe"},
    {"norm": "group-nuc", "eps": 0.8, "rank": "full", "tile": 4},
    {"exact_rank": True},
    {"use_budget": True},
    {"thorough": True},
    {"precision": "bf16"},
]
NAMES = {2: "L2", math.inf: "Linf"}


@pytest.mark.parametrize("options", MODES, ids=str)
def test_three_entry_points_agree(digits_net, classifier, arrays, options):
    x, y = arrays
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    settings = {"eps": 0.6, "rank": 1, **options}
    plain = lowrank_pgd(digits_net, images, labels, steps=6, **settings)
    art = LowRankPGD(classifier, max_iter=6, batch_size=25, verbose=False, **settings)
    np.testing.assert_allclose(art.generate(x, y), plain.x.numpy(), atol=1e-4)
    found = art.generate_attacked(x, y)
    assert torch.equal(found.success, plain.success)
    assert found.attack == plain.attack
    torchattacks = pytest.importorskip("torchattacks", reason="the extra torchattacks is not installed")
    assert torchattacks
    from art_lowrank import LoRaPGD

    norm = settings.pop("norm", 2)
    attack = LoRaPGD(digits_net, steps=6, norm=NAMES.get(norm, norm), **settings)
    torch.testing.assert_close(attack(images, labels), plain.x, atol=1e-4, rtol=0)


def test_curves_of_both_hosts(digits_net, classifier, arrays):
    x, y = arrays
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    plain = rank_curve(digits_net, images, labels, eps=0.6, steps=8)
    radii = eps_curve(digits_net, images, labels, eps=[0.3, 0.6], rank=2, steps=8)
    art = LowRankPGD(classifier, eps=0.6, rank=2, max_iter=8, batch_size=25, verbose=False)
    for found, expected in ((art.rank_curve(x, y), plain), (art.eps_curve(x, y, eps=[0.3, 0.6]), radii)):
        assert torch.equal(found.breaking, expected.breaking)
        torch.testing.assert_close(found.x, expected.x, atol=1e-4, rtol=0)
    pytest.importorskip("torchattacks", reason="the extra torchattacks is not installed")
    from art_lowrank import LoRaPGD

    attack = LoRaPGD(digits_net, eps=0.6, rank=2, steps=8)
    for found, expected in (
        (attack.rank_curve(images, labels), plain),
        (attack.eps_curve(images, labels, [0.3, 0.6]), radii),
    ):
        assert torch.equal(found.breaking, expected.breaking)
    assert torch.equal(attack(images, labels), lowrank_pgd(digits_net, images, labels, eps=0.6, rank=2, steps=8).x)


def test_a_curve_through_an_estimators_own_loss(make_classifier, digits_net, arrays):
    x, y = arrays
    attack = LowRankPGD(make_classifier(digits_net), eps=0.6, loss="estimator", max_iter=8, verbose=False)
    curve = attack.rank_curve(x, y)
    assert curve.accuracy[-1] < curve.clean_accuracy
    assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)


def test_a_curve_in_normalised_torchattacks(digits_net, test_digits):
    pytest.importorskip("torchattacks", reason="the extra torchattacks is not installed")
    from art_lowrank import LoRaPGD

    x, y = test_digits
    shifted = torch.nn.Sequential(_Unshift(), digits_net).eval()
    attack = LoRaPGD(shifted, eps=0.6, rank=2, steps=6)
    attack.set_normalization_used(mean=[0.3], std=[0.5])
    curve = attack.rank_curve((x - 0.3) / 0.5, y)
    expected = rank_curve(digits_net, x, y, eps=0.6, steps=6)
    assert (curve.breaking != expected.breaking).sum() <= 1
    torch.testing.assert_close(curve.x * 0.5 + 0.3, expected.x, atol=1e-3, rtol=0)


class _Unshift(torch.nn.Module):
    def forward(self, x):
        return x * 0.5 + 0.3


@pytest.mark.parametrize("norm", [2, np.inf])
@pytest.mark.parametrize("theirs", [ProjectedGradientDescentPyTorch, ProjectedGradientDescentNumpy])
@pytest.mark.parametrize("options", [{}, {"targeted": True}, {"decay": 0.9}], ids=str)
def test_full_rank_with_the_estimators_loss_is_arts_pgd(classifier, arrays, norm, theirs, options):
    x, y = arrays
    common = {"norm": norm, "eps": 0.6 if norm == 2 else 0.1, "eps_step": 0.15 if norm == 2 else 0.03, "max_iter": 6}
    common = {**common, **options, "verbose": False}
    labels = (y + 1) % 10
    ours = LowRankPGD(classifier, rank="full", loss="estimator", **common).generate(x, labels)
    expected = theirs(classifier, **common).generate(x, np.eye(10, dtype=np.float32)[labels])
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 1, 8, 8), (60, 1, 1, 1), (60,), (1, 8, 8), (8, 8), (1, 8, 1), (8,)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, "full"])
def test_l_inf_radii_of_any_shape(classifier, arrays, shape, rank):
    x, y = arrays
    eps = np.random.default_rng(0).uniform(0, 0.2, shape).astype(np.float32)
    spread = eps.reshape(-1, 1, 1, 1) if shape == (60,) else eps
    adversarial = LowRankPGD(classifier, norm=np.inf, eps=eps, rank=rank, max_iter=4, verbose=False).generate(x, y)
    moved = np.abs(adversarial.astype(np.float64) - x)
    assert (moved <= np.broadcast_to(spread, x.shape).astype(np.float64) * (1 + 1e-6)).all()
    assert moved.max() > 0.05


def test_l_inf_radii_keep_the_hosts_order_of_axes(digits_net, arrays):
    """Flat samples are read as images; their radii, one a number, follow."""
    from art.estimators.classification.scikitlearn import ScikitlearnLogisticRegression
    from sklearn.linear_model import LogisticRegression

    x, y = arrays
    flat = x.reshape(len(x), -1)
    estimator = ScikitlearnLogisticRegression(LogisticRegression(max_iter=300).fit(flat, y), clip_values=(0.0, 1.0))
    eps = np.zeros(64, dtype=np.float32)
    eps[:20] = 0.1
    attack = LowRankPGD(estimator, norm=np.inf, eps=eps, rank=2, image_shape=(8, 8), max_iter=4, verbose=False)
    moved = np.abs(attack.generate(flat, y) - flat)
    assert moved[:, :20].max() > 0.05
    assert moved[:, 20:].max() == 0


def test_curves_with_steps_starts_and_drawn_radii(classifier, digits_net, arrays):
    """What belongs to each image goes with it from stage to stage."""
    x, y = arrays
    factors = LowRankPGD(classifier, eps=0.3, rank=1, max_iter=2, verbose=False).generate_factors(x, y)[1]
    for options in ({"eps_step": 0.2}, {"init": factors}, {"eps_step": 0.05, "norm": np.inf, "eps": 0.1}):
        curve = LowRankPGD(classifier, **{"eps": 0.6, "max_iter": 4, "verbose": False, **options}).rank_curve(x, y)
        assert list(curve.accuracy) == sorted(curve.accuracy, reverse=True)
    with pytest.raises(ValueError, match="set random_eps=False"):
        LowRankPGD(classifier, random_eps=True, verbose=False).rank_curve(x, y)
