"""Images to train on by name: the built-in digits, an .npz file, or a torchvision data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from art_lowrank.demo.digits import digits
from art_lowrank.training.checkpoint import reason

NAMES = ("x_train", "y_train", "x_test", "y_test")
Array = np.ndarray[Any, np.dtype[Any]]


class Images(NamedTuple):
    """Images (n, c, h, w) in [0, 1] and their class numbers (n,)."""

    x: Tensor
    y: Tensor


class Data(NamedTuple):
    """What is trained on, what decides which epoch is best, and what the model card is measured on."""

    name: str
    train: Images
    validation: Images
    test: Images

    @property
    def classes(self) -> int:
        """One more than the largest class number."""
        return int(max(part.y.max() for part in (self.train, self.validation, self.test))) + 1


def load(name: str, folder: str | Path = "data") -> Data:
    """`digits`, `path/to/file.npz` or `torchvision:CIFAR10`; a tenth of the training images is for validation."""
    if name == "digits":
        train, test = (Images(*part) for part in digits())
    elif name.startswith("torchvision:"):
        train, test = (_torchvision(name.removeprefix("torchvision:"), Path(folder), part) for part in (True, False))
    elif name.endswith(".npz"):
        train, test = _npz(Path(name))
    else:
        raise ValueError(f"data is {name!r}; give digits, a file.npz, or torchvision:NAME such as torchvision:CIFAR10")
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(0))
    held = max(1, len(order) // 10)
    rows, last = order[:-held], order[-held:]
    return Data(name, Images(train.x[rows], train.y[rows]), Images(train.x[last], train.y[last]), test)


def _npz(path: Path) -> tuple[Images, Images]:
    """Arrays x_train, y_train, x_test, y_test; images (n, h, w), (n, h, w, c) or (n, c, h, w), uint8 or in [0, 1]."""
    arrays = arrays_of(path, NAMES)
    if missing := [name for name in NAMES if name not in arrays]:
        raise ValueError(f"{path} holds no array {missing[0]!r}; it needs {', '.join(NAMES)}")
    x_train, x_test = (images_of(arrays[name], f"{path}: {name}") for name in ("x_train", "x_test"))
    y_train, y_test = (classes_of(arrays[name], f"{path}: {name}") for name in ("y_train", "y_test"))
    for part, x, y, least in (("train", x_train, y_train, 2), ("test", x_test, y_test, 1)):
        if len(x) < least or len(x) != len(y):
            raise ValueError(f"{path}: {len(x)} images and {len(y)} labels in {part}; give as many, at least {least}")
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = tuple(x_train.shape[1:]), tuple(x_test.shape[1:])
        raise ValueError(f"{path}: images of {shapes[0]} in x_train, of {shapes[1]} in x_test")
    return Images(x_train, y_train), Images(x_test, y_test)


def arrays_of(path: Path, names: Iterable[str]) -> dict[str, Array]:
    """Those of the named arrays that an .npz file holds."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file}
    except Exception as error:  # zip, npy and pickle readers raise a dozen kinds, all for the same reason
        raise ValueError(f"{path} cannot be read ({reason(error)}); give an .npz file of numpy.savez") from error


def images_of(array: Array, name: str) -> Tensor:
    """An array of images as float32 (n, c, h, w) in [0, 1]."""
    if array.dtype.kind not in "uif" or array.ndim not in (3, 4):
        raise ValueError(
            f"{name} holds {array.dtype} images of shape {array.shape}; give (n, h, w), (n, h, w, c) or (n, c, h, w)"
        )
    scale = 255 if array.dtype == np.uint8 else 1
    x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)) / scale
    x = x.unsqueeze(1) if x.ndim == 3 else x
    if x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.movedim(-1, 1)
    if scale == 1 and x.numel() and not (bool(torch.isfinite(x).all()) and float(x.min()) >= 0 and float(x.max()) <= 1):
        raise ValueError(f"{name} holds pixels from {x.min():g} to {x.max():g}; give uint8, or numbers in [0, 1]")
    return x.contiguous()


def classes_of(array: Array, name: str) -> Tensor:
    """An array of labels as class numbers (n,)."""
    if array.dtype.kind not in "uif" or (array.size and (array.min() < 0 or np.any(array != np.floor(array)))):
        raise ValueError(f"{name} holds {array.dtype}; give class numbers, labels from 0")
    return torch.from_numpy(array.astype(np.int64).reshape(-1))


def _torchvision(name: str, folder: Path, train: bool) -> Images:
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise ValueError("torchvision is not installed; pip install torchvision") from error
    kind = getattr(datasets, name, None)
    if kind is None:
        raise ValueError(f"torchvision has no data set {name!r}; CIFAR10, CIFAR100, MNIST and FashionMNIST are some")
    try:
        found = kind(folder, train=train, download=True, transform=transforms.ToTensor())
    except TypeError as error:
        raise ValueError(f"torchvision's {name} is not split by train=True; write it to an .npz file first") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"torchvision could not download {name} ({reason(error)}); put its files into {folder}"
        ) from error
    pairs = [found[index] for index in range(len(found))]
    return Images(torch.stack([image for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs]))
