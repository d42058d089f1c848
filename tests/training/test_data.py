"""Images by name: .npz files in every layout, what is wrong with the others, and torchvision's files on disk."""

from __future__ import annotations

import gzip
import pickle
import socket
import struct

import numpy as np
import pytest
import torch

from art_lowrank.demo.digits import digits
from art_lowrank.training.data import load

RNG = np.random.default_rng(0)


def arrays(**other):
    found = {
        "x_train": RNG.integers(0, 256, (40, 8, 8), dtype=np.uint8),
        "y_train": np.arange(40) % 3,
        "x_test": RNG.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        "y_test": np.arange(12) % 3,
    } | other
    return {name: array for name, array in found.items() if array is not None}


@pytest.fixture
def npz(tmp_path):
    def write(save=np.savez, **other):
        save(tmp_path / "it.npz", **arrays(**other))
        return str(tmp_path / "it.npz")

    return write


def test_digits_are_split_once_and_for_all():
    one, two = load("digits"), load("digits")
    train, test = digits()
    assert len(one.train.x) + len(one.validation.x) == len(train.x)
    assert len(one.validation.x) == len(train.x) // 10
    assert torch.equal(one.test.x, test.x)
    assert torch.equal(one.validation.x, two.validation.x)
    together = torch.cat([one.train.x, one.validation.x]).flatten(1)
    assert torch.equal(together.sum(0), train.x.flatten(1).sum(0))
    assert one.classes == 10


def test_pictures_of_bytes_become_numbers_up_to_one(npz):
    images = RNG.integers(0, 256, (40, 6, 7, 3), dtype=np.uint8)
    labels = np.arange(40)[:, None]
    found = load(npz(x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5]))
    known = torch.from_numpy(images).movedim(-1, 1).float() / 255
    assert torch.equal(found.test.x, known[:5])
    assert found.train.x.shape[1:] == (3, 6, 7)
    for part in (found.train, found.validation):
        assert torch.equal(part.x, known[part.y])  # every image kept its label
    assert sorted([*found.train.y.tolist(), *found.validation.y.tolist()]) == list(range(40))
    assert found.classes == 40


@pytest.mark.parametrize("shape", [(3, 6, 7), (1, 6, 7), (6, 7)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_numbers_stay_what_they_are(npz, shape, kind):
    images = RNG.random((40, *shape)).astype(kind)
    found = load(npz(x_train=images, x_test=images[:12], save=np.savez_compressed))
    assert found.test.x.dtype == torch.float32
    wide = images if len(shape) == 3 else images[:, None]
    assert torch.equal(found.test.x, torch.from_numpy(wide[:12].astype(np.float32)))


BAD = {
    "missing array": ({"x_test": None}, "holds no array 'x_test'"),
    "bytes as floats": (
        {"x_train": RNG.random((40, 8, 8)) * 255},
        r"pixels from .* give uint8, or numbers in \[0, 1\]",
    ),
    "below 0": ({"x_test": RNG.random((12, 8, 8)) - 0.5}, "pixels from -"),
    "not a number": ({"x_train": np.full((40, 8, 8), np.nan)}, "pixels from nan"),
    "flat": ({"x_train": np.zeros((40, 64), np.uint8)}, r"x_train .*of shape \(40, 64\)"),
    "five axes": ({"x_train": np.zeros((40, 1, 1, 8, 8), np.uint8)}, r"x_train .*of shape \(40, 1, 1, 8, 8\)"),
    "too few labels": ({"y_train": np.arange(30) % 3}, "40 images and 30 labels in train"),
    "labels below 0": ({"y_train": np.arange(40) % 3 - 1}, "labels from 0"),
    "no images": (
        {"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)},
        "0 images and 0 labels in train",
    ),
    "no images to test": (
        {"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, int)},
        "0 images and 0 labels in test",
    ),
    "one image": ({"x_train": np.zeros((1, 8, 8), np.uint8), "y_train": np.zeros(1, int)}, "1 "),
    "text": ({"x_train": np.full((40, 8, 8), "a")}, "x_train|images"),
    "text as labels": ({"y_train": np.full(40, "a")}, "it.npz"),
    "objects": ({"x_train": np.full((40, 8, 8), None)}, "it.npz"),
    "labels in between": ({"y_train": np.arange(40) % 3 + 0.5}, "labels"),
    "other channels in test": ({"x_test": np.zeros((12, 3, 8, 8), np.uint8)}, r"\(3, 8, 8\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_one_line(npz, name):
    changed, message = BAD[name]
    path = npz(**changed)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert "it.npz" in str(caught.value)


def broken(kind, path):
    np.savez_compressed(path, **arrays())
    data = bytearray(path.read_bytes())
    if kind == "absent":
        path.unlink()
        return
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        return
    data[500:520] = b"x" * 20
    path.write_bytes(
        {
            "empty": b"",
            "garbage": b"hello world" * 20,
            "pickle": pickle.dumps({"x_train": 1}),
            "truncated": bytes(data[:-300]),
            "damaged": bytes(data),
        }[kind]
    )


@pytest.mark.parametrize("kind", ["absent", "npy", "empty", "garbage", "pickle", "truncated", "damaged"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, kind):
    path = tmp_path / "it.npz"
    broken(kind, path)
    with pytest.raises(ValueError, match=r"it\.npz (cannot be read .*; give an \.npz file|holds no array)") as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


def test_other_names_are_refused():
    with pytest.raises(ValueError, match=r"data is 'cifar'; give digits, a file\.npz, or torchvision:NAME"):
        load("cifar")


def idx(path, array):
    """The files MNIST is distributed in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(head + array.tobytes())
    path.write_bytes(head + array.tobytes())


def test_torchvision_files_on_disk(tmp_path):
    pytest.importorskip("torchvision")
    images, labels = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8), (np.arange(30) % 10).astype(np.uint8)
    for part, count in (("train", 30), ("t10k", 8)):
        idx(tmp_path / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images[:count])
        idx(tmp_path / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels[:count])
    found = load("torchvision:MNIST", tmp_path)
    assert (len(found.train.x), len(found.validation.x), len(found.test.x)) == (27, 3, 8)
    assert torch.equal(found.test.x, torch.from_numpy(images[:8])[:, None].float() / 255)
    assert found.test.y.tolist() == labels[:8].tolist()
    assert found.classes == 10


def test_torchvision_without_network_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")

    def offline(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket, "create_connection", offline)
    for name in ("MNIST", "CIFAR10"):
        with pytest.raises(ValueError, match=f"could not download {name} .*put its files into") as caught:
            load(f"torchvision:{name}", tmp_path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Nonsense", "no data set 'Nonsense'"), ("FakeData", "not split by train=True"), ("vision", "no data set|split")],
)
def test_torchvision_names_that_do_not_do(name, message, tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=message):
        load(f"torchvision:{name}", tmp_path)
