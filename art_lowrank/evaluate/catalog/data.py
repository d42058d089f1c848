"""Images by name: the digits, RobustBench's CIFAR-10, CIFAR-100 and ImageNet, an .npz file, a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_lowrank.demo.digits import digits
from art_lowrank.evaluate.bench import DataEntry, Subject, file_hash
from art_lowrank.evaluate.spec import Spec, check_known, existing, nearest
from art_lowrank.training.checkpoint import reason
from art_lowrank.training.data import Array, Images, arrays_of, classes_of, images_of

PAIRS = (("x", "y"), ("images", "labels"), ("x_test", "y_test"))
NAMES = ("digits", "robustbench:cifar10", "robustbench:cifar100", "robustbench:imagenet", "file.npz", "folder:PATH")


def data_entry(spec: Spec, data_dir: str) -> DataEntry:
    """The images of that name."""
    kind, _, name = spec.name.partition(":")
    if spec.words:
        raise ValueError(f"{spec}: {spec.words[0]!r} has no value; write {spec.words[0]}=...")
    if spec.name == "digits":
        check_known(spec.options, (), spec)
        return whole(spec, Images(*digits()[1]), {})
    if spec.name.endswith(".npz"):
        check_known(spec.options, (), spec)
        path = existing(spec.name, "data")
        return _npz(spec, path)
    if kind == "robustbench" or spec.name in ("cifar10", "cifar100", "imagenet"):
        return _robustbench(spec, name or spec.name, data_dir)
    if kind == "folder":
        return _folder(spec, Path(name))
    raise ValueError(nearest(spec.name, NAMES, "data"))


def whole(spec: Spec, found: Images, meaning: Any) -> DataEntry:
    """Images that are in memory anyway."""

    def rows(start: int, stop: int, _: Subject) -> Images:
        return Images(found.x[start:stop].clone(), found.y[start:stop])

    return DataEntry(spec.text, {"spec": spec.identity, "files": meaning}, len(found.x), rows)


def _npz(spec: Spec, path: Path) -> DataEntry:
    """Two arrays, x and y (or images and labels, or x_test and y_test), as `training.data` reads them."""
    name, x, y = _arrays(path)
    if x.dtype != np.uint8:  # else there is nothing that could be out of range, and no need to turn all into floats
        return whole(spec, Images(images_of(x, name), y), file_hash(path))
    images_of(x[:1], name)

    def rows(start: int, stop: int, _: Subject) -> Images:
        return Images(images_of(x[start:stop], name), y[start:stop])

    return DataEntry(spec.text, {"spec": spec.identity, "files": file_hash(path)}, len(x), rows)


def _arrays(path: Path) -> tuple[str, Array, Tensor]:
    """The name of the images for messages, the images as they are, and their class numbers."""
    arrays = arrays_of(path, [name for pair in PAIRS for name in pair])
    for image, label in PAIRS:
        if image in arrays and label in arrays:
            x, y = arrays[image], classes_of(arrays[label], f"{path}: {label}")
            n = len(x) if x.ndim else 0
            if n != len(y) or not n:
                raise ValueError(f"{path}: {n} images and {len(y)} labels; give as many, at least one")
            return f"{path}: {image}", x, y
    raise ValueError(f"{path} holds {sorted(arrays) or 'none of the arrays'}; it needs x and y, or images and labels")


def _robustbench(spec: Spec, name: str, data_dir: str) -> DataEntry:
    from art_lowrank.hosts import robustbench

    check_known(spec.options, (), spec)
    loaders: dict[str, Callable[..., Any]] = {
        "cifar10": robustbench.load_cifar10,
        "cifar100": robustbench.load_cifar100,
    }
    if name in loaders:
        return whole(spec, Images(*loaders[name](data_dir=data_dir)), {})
    if name != "imagenet":
        raise ValueError(f"{spec}: {nearest(name, [*loaders, 'imagenet'], 'data set of RobustBench')}")

    def rows(start: int, stop: int, subject: Subject) -> Images:
        return Images(*robustbench.imagenet_rows(start, stop, data_dir, subject.preprocessing))

    return DataEntry(spec.text, {"spec": spec.identity}, robustbench.imagenet_size(data_dir), rows)


def _folder(spec: Spec, path: Path) -> DataEntry:
    """Images in a folder a class, classes in the order of their names; cut as the model wants them, or to `size`.

    They come in a fixed random order, so that the first few are of all classes.
    """
    check_known(spec.options, ("size", "resize"), spec)
    try:
        from torchvision import datasets, transforms
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"{spec}: torchvision does not import ({reason(error)}); pip install torchvision") from error
    try:
        dataset = datasets.ImageFolder(str(path))
    except OSError as error:
        raise ValueError(
            f"{spec}: {path} is no folder with a folder of images for each class: {reason(error)}"
        ) from None
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    size, resize = (spec.options.get(key) for key in ("size", "resize"))
    steps = [transforms.Resize(resize)] if resize else []
    own = transforms.Compose([*steps, *([transforms.CenterCrop(size)] if size else []), transforms.ToTensor()])

    def rows(start: int, stop: int, subject: Subject) -> Images:
        prepare = subject.preprocessing if subject.preprocessing is not None and not (size or resize) else own
        pairs = [dataset[order[place]] for place in range(start, stop)]
        tensors = [prepare(image) for image, _ in pairs]
        if len({tuple(tensor.shape) for tensor in tensors}) > 1:
            raise ValueError(f"{spec}: images of several sizes; give {spec.name}[resize=256,size=224]")
        return Images(torch.stack(tensors), torch.tensor([label for _, label in pairs]))

    files = [(str(Path(file).relative_to(path)), Path(file).stat().st_size) for file, _ in dataset.samples]
    return DataEntry(spec.text, {"spec": spec.identity, "files": files}, len(files), rows)
