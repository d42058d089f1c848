"""The test sets of RobustBench, from files that are there or fetched; otherwise an error says what goes where."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from art_lowrank.hosts.robustbench_enable import part
from art_lowrank.hosts.robustbench_files import from_url, one_line, placed
from art_lowrank.hosts.robustbench_zoo import nearest

Transform = Callable[[Any], Any]


def load_cifar10(
    n_examples: int | None = None, data_dir: str = "./data", transforms_test: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """The first test images of CIFAR-10, or all, in [0, 1]."""
    return _cifar(part("data").datasets.CIFAR10, n_examples, data_dir, transforms_test)


def load_cifar100(
    n_examples: int | None = None, data_dir: str = "./data", transforms_test: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """The first test images of CIFAR-100, or all, in [0, 1]."""
    return _cifar(part("data").datasets.CIFAR100, n_examples, data_dir, transforms_test)


def load_imagenet(
    n_examples: int | None = 5000, data_dir: str = "./data", transforms_test: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """The first of RobustBench's 5000 validation images of ImageNet, or all of them."""
    return _first(_imagenet(data_dir, transforms_test), n_examples, "imagenet")


def imagenet_rows(
    start: int, stop: int, data_dir: str = "./data", transforms_test: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """Some of those images: all at once would take 3 GB."""
    return _rows(_imagenet(data_dir, transforms_test), range(start, stop))


def imagenet_size(data_dir: str = "./data") -> int:
    """How many images RobustBench evaluates on, once the folder is there."""
    return len(_imagenet(data_dir, None))


def _imagenet(data_dir: str, transform: Transform | None) -> Any:
    data, root = part("data"), Path(data_dir) / "val"
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not there; put the 1000 class folders of ImageNet's validation images there"
        )
    try:
        return data.CustomImageFolder(
            str(root), data.PREPROCESSINGS["Res256Crop224"] if transform is None else transform
        )
    except KeyError as error:  # their list names a class whose folder is missing
        raise FileNotFoundError(
            f"{root} has no folder of class {error.args[0]}; put all 1000 class folders there"
        ) from None


def load_cifar10c(
    n_examples: int | None = None,
    severity: int = 5,
    data_dir: str = "./data",
    shuffle: bool = False,
    corruptions: Sequence[str] | None = None,
    prepr: Transform | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupted test images of CIFAR-10, equally many of every corruption; `prepr` has no use, as in robustbench."""
    return _corrupted("cifar10", n_examples, severity, data_dir, shuffle, corruptions)


def load_cifar100c(
    n_examples: int | None = None,
    severity: int = 5,
    data_dir: str = "./data",
    shuffle: bool = False,
    corruptions: Sequence[str] | None = None,
    prepr: Transform | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupted test images of CIFAR-100, equally many of every corruption; `prepr` has no use, as in robustbench."""
    return _corrupted("cifar100", n_examples, severity, data_dir, shuffle, corruptions)


def loaded(dataset: str, n_examples: int | None, data_dir: str, prepr: Transform) -> tuple[Tensor, Tensor]:
    """The clean test images of a data set."""
    load = {"cifar10": load_cifar10, "cifar100": load_cifar100, "imagenet": load_imagenet}[dataset]
    return load(n_examples, data_dir, prepr)


def _cifar(kind: Any, n_examples: int | None, data_dir: str, transform: Transform | None) -> tuple[Tensor, Tensor]:
    transform = part("data").PREPROCESSINGS[None] if transform is None else transform
    try:
        images = kind(data_dir, train=False, transform=transform)
    except RuntimeError:  # not unpacked, or not wholly
        _archive(kind, Path(data_dir))
        images = kind(data_dir, train=False, transform=transform, download=True)  # only unpacks
    return _first(images, n_examples, kind.__name__)


def _archive(kind: Any, folder: Path) -> None:
    """Torchvision's archive, whole: it would overwrite or leave behind a half one."""

    def check(path: Path, called: Path) -> None:
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != kind.tgz_md5:
            raise ValueError(f"{called} is damaged, its md5 is not {kind.tgz_md5}; remove it and get {kind.url}")

    remedy = f"download {kind.url} elsewhere and put {kind.filename} into {folder}"
    check(placed(folder / kind.filename, from_url(kind.url), remedy, check), folder / kind.filename)


def _first(images: Any, n_examples: int | None, name: str) -> tuple[Tensor, Tensor]:
    """Without a DataLoader, which draws from torch's global generator."""
    wanted = len(images) if n_examples is None else n_examples
    if not 1 <= wanted <= len(images):
        raise ValueError(f"n_examples is {wanted}; {name} has {len(images)} test images here, give 1 to that or None")
    return _rows(images, range(wanted))


def _rows(images: Any, numbers: range) -> tuple[Tensor, Tensor]:
    try:
        rows = [images[number][:2] for number in numbers]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename} is not there; it is one of the images RobustBench evaluates on"
        ) from None
    return torch.stack([image for image, _ in rows]), torch.tensor([label for _, label in rows])


def _corrupted(
    dataset: str, n_examples: int | None, severity: int, data_dir: str, shuffle: bool, corruptions: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    data = part("data")
    names = list(data.CORRUPTIONS if corruptions is None else corruptions)
    if severity not in range(1, 6):
        raise ValueError(f"severity is {severity!r}; give 1 to 5")
    kind = data.BenchmarkDataset(dataset)
    folder = _unpacked(data, kind, Path(data_dir))
    for name in ("labels", *names):
        if name != "labels" and name not in data.CORRUPTIONS:
            raise ValueError(nearest("corruption", name, data.CORRUPTIONS))
        if not (folder / f"{name}.npy").is_file():
            raise FileNotFoundError(f"{folder / name}.npy is not there; remove {folder} and unpack the archive again")
    every = 10000 * len(names)
    x, y = data.load_corruptions_cifar(kind, n_examples or every, severity, data_dir, names, shuffle)
    if n_examples is not None and not 1 <= n_examples <= len(x):
        raise ValueError(f"n_examples is {n_examples}; there are {len(x)} such images, give 1 to that or None")
    return x, y


def _unpacked(data: Any, kind: Any, data_dir: Path) -> Path:
    """The folder of the corrupted images, unpacked from its archive whole or not at all."""
    folder = data_dir / str(data.CORRUPTIONS_DIR_NAMES[kind][data.ThreatModel.corruptions])
    if folder.is_dir():
        return folder
    record, (archive,) = data.ZENODO_CORRUPTIONS_LINKS[kind]
    remedy = f"put {archive} of https://zenodo.org/records/{record} there, or its folder {folder.name} beside it"
    address = f"https://zenodo.org/records/{record}/files/{archive}?download=1"
    path = placed(data_dir / archive, from_url(address), remedy)
    with TemporaryDirectory(dir=data_dir, prefix=".robustbench-") as aside:
        try:
            _extract(path, aside)
            (Path(aside) / folder.name).replace(folder)
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{path} is damaged ({one_line(error)}); remove it and get it again") from error
    return folder


def _extract(path: Path, aside: str) -> None:
    """Files and folders of an archive, none of them elsewhere; Python before 3.11.4 has no filter that sees to it."""
    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(path) as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if not (member.isreg() or member.isdir()) or place.is_absolute() or ".." in place.parts:
                raise tarfile.TarError(f"it holds {member.name!r}, which is no file of its own folder")
        archive.extractall(aside, **safe)
