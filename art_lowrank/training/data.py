"""Images to train on by name: the built-in digits, an .npz file, or a torchvision data set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from art_lowrank.demo.digits import digits


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
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in file]
            if missing:
                raise ValueError(f"{path} holds no array {missing[0]!r}; it needs x_train, y_train, x_test, y_test")
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); give an .npz file written by numpy.savez") from error
    parts = []
    for part in ("train", "test"):
        x, y = images_of(arrays[f"x_{part}"], path), torch.from_numpy(arrays[f"y_{part}"].astype(np.int64).reshape(-1))
        if not len(x) or len(x) != len(y) or int(y.min()) < 0:
            raise ValueError(f"{path}: {len(x)} images and {len(y)} labels in {part}; as many, labels from 0")
        parts.append(Images(x, y))
    return parts[0], parts[1]


def images_of(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], path: Path) -> Tensor:
    """An array of images as float32 (n, c, h, w) in [0, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(array))
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if x.ndim == 3:
        x = x.unsqueeze(1)
    if x.ndim != 4:
        raise ValueError(f"{path} holds images of shape {tuple(x.shape)}; give (n, h, w), (n, h, w, c) or (n, c, h, w)")
    if x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.movedim(-1, 1)
    if not bool(torch.isfinite(x).all()) or float(x.min()) < 0 or float(x.max()) > 1:
        raise ValueError(f"{path} holds pixels from {x.min():g} to {x.max():g}; give uint8, or numbers in [0, 1]")
    return x.contiguous()


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
        raise ValueError(f"torchvision could not download {name} ({error}); put its files into {folder}") from error
    pairs = [found[index] for index in range(len(found))]
    return Images(torch.stack([image for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs]))
