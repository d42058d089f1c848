"""What a loop of one's own may hand to `warm_started`, and what it is told."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from art_lowrank.training import Indexed, PerturbationStore, WarmStart, overfitting, warm_started
from art_lowrank.training.moves import Moves

N, SHAPE, EPS = 12, (1, 8, 8), 0.3
ALL = torch.arange(N)
X = torch.rand((N, *SHAPE), generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


def net(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(dtype)


def run(x=X, y=Y, indices=ALL, *moves, store=None, model=None, **options):
    store = PerturbationStore(N, SHAPE, 1) if store is None else store
    ((images, labels),) = warm_started(model or net(), [(x, y, indices, *moves)], store, **{"eps": EPS, **options})
    return images, labels


def refused(match, *batch, kind=ValueError, **options):
    with pytest.raises(kind, match=match) as caught:
        run(*batch, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X * 255, r"images span \[.*outside the clip range \[0, 1\]; scale them"),
        (X * 2 - 1, "outside the clip range"),
        ((X * 255).byte(), "images are torch.uint8; give floats"),
        (X.where(X > 0.01, torch.nan), r"of 12 images hold NaN or infinity"),
        (X.flatten(1), r"images have shape \(12, 64\); give \(n, channels, height, width\)"),
        (X.permute(0, 2, 3, 1), r"images are \(8, 8, 1\), the store's \(1, 8, 8\) \(channels, height, width\)"),
    ],
)
def test_images_that_no_ball_suits(x, message):
    refused(message, x)


def test_a_range_of_ones_own():
    images, _ = run(X * 4 - 2, clip=(-2.0, 2.0))
    assert -2 <= float(images.min()) <= float(images.max()) <= 2
    images, _ = run(X * 9, clip=None)
    assert float((images - X * 9).flatten(1).norm(dim=1).max()) <= EPS * (1 + 1e-5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y[:, None], r"labels are torch.int64 of shape \(12, 1\); give whole class numbers"),
        (Y[:5], "5 labels for 12 images"),
        (Y - 1, "label -1 is negative"),
        (Y.float(), "labels are torch.float32"),
    ],
)
def test_labels_that_are_none(y, message):
    refused(message, X, y)


def test_labels_of_other_kinds():
    whole, _ = run()
    for y in (Y.int(), torch.nn.functional.one_hot(Y, 3).float()):
        images, labels = run(X, y)
        assert torch.allclose(images, whole, atol=1e-6)
        assert labels is y or torch.equal(labels, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": "0.5"}, "eps is '0.5'; give a finite number above 0"),
        ({"eps": None}, "eps is None"),
        ({"eps": True}, "eps is True"),
        ({"eps": torch.ones(N)}, r"eps is tensor\(\["),
        ({"clip": (1, 0)}, r"clip is \(1, 0\); its lower bound"),
        ({"clip": "a"}, "clip is 'a'"),
        ({"norm": 1}, "norm is 1; .* so does a warm start"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": None}, "seed is None"),
        ({"epoch": -1}, "epoch is -1"),
        ({"settings": True}, "give a PerturbationStore and a WarmStart"),
        ({"store": 5}, "store and settings are int and WarmStart"),
        ({"settings": WarmStart(rank=2)}, "settings say rank=2, the store keeps 1; leave rank out"),
        ({"settings": WarmStart(fall_back=True)}, "settings say fall_back=True, which only LowRankTrainer heeds"),
        ({"settings": WarmStart(frame=(8, 8))}, "settings say frame"),
    ],
)
def test_arguments_that_do_not_do(options, message):
    refused(message, **options)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, Y, None), "indices and moves are None"),
        ((X, Y, ALL, 5), "indices and moves are .*not iterable"),
        ((X, Y, ALL, Moves.none(7)), r"moves of shapes \(\(7, 2\), \(7, 2\)\) do not fit 12 indices"),
    ],
)
def test_places_that_are_none(batch, message):
    refused(message, *batch)


def test_the_ball_of_a_store_is_its_own(tmp_path):
    store = PerturbationStore(N, SHAPE, 1, unit="l2 radius")
    run(store=store)
    refused("the store's unit is 'l2 radius', the attack's 'linf radius'", store=store, norm="inf")
    refused("low_rank=True needs factors", store=PerturbationStore(N, SHAPE, "full"), settings=WarmStart(low_rank=True))


def test_files_of_an_earlier_process_are_gone_on_with_when_asked(tmp_path):
    for _ in range(2):
        run(store=PerturbationStore(N, SHAPE, 1, tmp_path), epoch=0)
    again = PerturbationStore(N, SHAPE, 1, tmp_path)
    refused("holds perturbations after 1 epochs; give epoch=1 to go on from them .* or epoch=0", store=again)
    run(store=again, epoch=1)
    run(store=again)  # from here on it counts by itself
    assert again.epoch == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("norm", "order"), [(2, 2), ("inf", math.inf)])
@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
def test_half_precision_stays_in_the_ball(dtype, norm, order, clip):
    x, store, model = X.to(dtype), PerturbationStore(N, SHAPE, 1), net(dtype)
    for _ in range(3):
        images, _ = run(x, store=store, model=model, norm=norm, clip=clip)
        assert images.dtype == dtype
        away = torch.linalg.vector_norm((images.double() - x.double()).flatten(1), order, dim=1)
        assert 0.9 * EPS < float(away.max()) <= EPS * (1 + 1e-5)


@pytest.mark.parametrize("settings", [WarmStart(), WarmStart(steps=0), WarmStart(low_rank=True)])
def test_autocast_is_for_the_net_alone(settings):
    store, model = PerturbationStore(N, SHAPE, 1), net()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            for images, labels in warm_started(model, [(X, Y, ALL)], store, eps=EPS, settings=settings):
                nn.functional.cross_entropy(model(images), labels).backward()
    assert images.dtype == torch.float32
    store.begin(2)
    assert bool(store.seen(ALL).all())


def test_corrupt_rows_count_as_none(tmp_path):
    store = PerturbationStore(N, SHAPE, 1, tmp_path)
    for _ in range(2):
        run(store=store)
    file = tmp_path / "epoch-000002.perturbations"
    data = bytearray(file.read_bytes())
    data[-64:] = b"\xff" * 64
    file.write_bytes(data)
    images, _ = run(store=PerturbationStore(N, SHAPE, 1, tmp_path), epoch=2)
    assert bool(torch.isfinite(images).all())


def test_overfitting_is_told_what_it_needs():
    for batch, message in (
        ((X[:0], Y[:0]), "there are no images"),
        ((X, Y[:, None]), "labels are torch.int64 of shape"),
        ((X * 255, Y), "outside the clip range"),
    ):
        with pytest.raises(ValueError, match=message):
            overfitting(net(), *batch, eps=EPS)


def test_a_subset_is_wrapped_not_taken():
    data = Indexed(TensorDataset(X, Y))
    (_, _, index) = Subset(data, [11])[0]
    with pytest.raises(ValueError, match=r"indices run from 11 to 11; .*Indexed\(Subset\(dataset, rows\)\)"):
        run(X[11:], Y[11:], torch.tensor([index]), store=PerturbationStore(1, SHAPE, 1))
