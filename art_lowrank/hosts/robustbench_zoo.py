"""The model zoo of RobustBench: weights checked before they are used, errors that say what to do, no network needed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import nn

from art_lowrank.hosts.autoattack_members import keeping_random
from art_lowrank.hosts.robustbench_enable import part
from art_lowrank.hosts.robustbench_files import from_url, hub_path, one_line, placed, weights


def load_model(
    model_name: str,
    model_dir: str | os.PathLike[str] = "./models",
    dataset: Any = "cifar10",
    threat_model: Any = "Linf",
    custom_checkpoint: str | os.PathLike[str] = "",
) -> nn.Module:
    """A model of the zoo with its weights, or with those of `custom_checkpoint`, in evaluation mode."""
    entry = find(model_name, dataset, threat_model)
    with building():
        if entry.url is not None:
            return _of_url(entry, custom_checkpoint)
        if not custom_checkpoint:
            return _of_drive(entry, Path(model_dir))
        return _of_custom(entry, Path(custom_checkpoint))


def available(dataset: Any = "cifar10", threat_model: Any = "Linf") -> list[str]:
    """The names of the models in the zoo."""
    return list(_models(*chosen(dataset, threat_model)))


def architecture(model_name: str, dataset: Any = "cifar10", threat_model: Any = "Linf") -> nn.Module:
    """The model with random weights, in evaluation mode: nothing is downloaded."""
    entry = find(model_name, dataset, threat_model)
    with building():
        return entry.build().eval()


def preprocessing_of(model_name: str, dataset: Any = "cifar10", threat_model: Any = "Linf") -> Callable[[Any], Any]:
    """The transform from a picture to what the model takes."""
    entry = find(model_name, dataset, threat_model)
    with building():
        found = part("data").get_preprocessing(entry.dataset, entry.threat, model_name, None)
        return cast(Callable[[Any], Any], found)


@dataclass(frozen=True)
class Entry:
    """One model of the zoo."""

    name: str
    dataset: Any  # robustbench's enumerations
    threat: Any
    timm: str | None  # its name in timm, where it has one
    url: str | None  # of its weights, where they do not come from Google Drive
    content: dict[str, Any]

    def build(self) -> nn.Module:
        """The model without its weights."""
        if self.timm is not None:
            classes = part("utils").DATASET_CLASSES[self.dataset]
            return cast(nn.Module, import_module("timm").create_model(self.timm, num_classes=classes, pretrained=False))
        if self.url is not None:  # their factory would download
            zoo, bare = part("model_zoo.imagenet"), import_module("torchvision.models").resnet50()
            return cast(nn.Module, zoo.normalize_model(bare, zoo.mu, zoo.sigma))
        return cast(nn.Module, self.content["model"]())

    def theirs(self, model_dir: Path) -> nn.Module:
        """What robustbench loads, from files that are in place."""
        try:
            load = part("utils").load_model
            return cast(nn.Module, load(self.name, model_dir, self.dataset, self.threat))
        except Exception as error:  # keys that do not fit raise several kinds
            where = self.files(model_dir)[0] if self.url is None else hub_path(self.url)
            raise ValueError(f"{self.name} does not take the weights in {where}: {one_line(error)}") from error

    def ids(self) -> list[str]:
        """Of the files on Google Drive."""
        ids = self.content["gdrive_id"]
        if ids is None:
            raise ValueError(
                f"{self.name} has no gdrive_id; register a local model with any text there, such as 'local'"
            )
        return list(ids) if isinstance(ids, list) else [ids]

    def files(self, model_dir: Path) -> list[Path]:
        """Where robustbench keeps the weights: one file, or one a member of an ensemble."""
        path = model_dir / self.dataset.value / self.threat.value / f"{self.name}.pt"
        if not isinstance(self.content["gdrive_id"], list):
            return [path]
        return [path.with_name(f"{path.name}_m{i}.pt") for i in range(len(self.ids()))]


def find(model_name: str, dataset: Any, threat_model: Any) -> Entry:
    """The model of this name, or the nearest names in an error."""
    dataset_, threat = chosen(dataset, threat_model)
    models, timm = _models(dataset_, threat), import_module("timm")
    if not isinstance(model_name, str):
        raise TypeError(f"model_name is {type(model_name).__name__}; give a name such as {next(iter(models))!r}")
    known = f"{model_name.lower().replace('-', '_')}_{dataset_.value}_{threat.value}".lower()
    if timm.is_model(known):
        url = timm.models.get_pretrained_cfg_value(known, "url")
        return Entry(model_name, dataset_, threat, known, url, {})
    if model_name not in models:
        raise ValueError(f"{nearest('model', model_name, models)} ({dataset_.value}, {threat.value})")
    url = None
    if dataset_.value == "imagenet" and "Standard" in model_name:
        url = import_module("torchvision.models").ResNet50_Weights.IMAGENET1K_V1.url
    return Entry(model_name, dataset_, threat, None, url, models[model_name])


def chosen(dataset: Any, threat_model: Any) -> tuple[Any, Any]:
    """Their enumerations; 3d corruptions have no models of their own."""
    enums = part("model_zoo.enums")
    threat = _member(enums.ThreatModel, "threat model", threat_model)
    return _member(enums.BenchmarkDataset, "dataset", dataset), enums.ThreatModel(threat.value.replace("_3d", ""))


def _member(kind: Any, what: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(nearest(what, value, [each.value for each in kind])) from None


def _models(dataset: Any, threat: Any) -> dict[str, dict[str, Any]]:
    zoo = part("model_zoo").model_dicts[dataset]
    if threat not in zoo:
        has = ", ".join(each.value for each in zoo)
        raise ValueError(f"robustbench has no models for {dataset.value} and {threat.value!r}; choose one of {has}")
    return cast(dict[str, dict[str, Any]], zoo[threat])


def nearest(what: str, value: object, names: Iterable[str]) -> str:
    """One line about an unknown name; all names where there are few."""
    names = list(names)
    near = names if len(names) < 6 else get_close_matches(str(value), names, n=3, cutoff=0.3)
    return f"robustbench has no {what} {value!r}" + (f"; nearest: {', '.join(near)}" if near else "")


def _of_url(entry: Entry, custom: str | os.PathLike[str]) -> nn.Module:
    """A model of timm or torchvision: its weights are in the cache of torch.hub."""
    if custom:
        return _filled(entry.build(), Path(custom), entry.name).eval()
    url = cast(str, entry.url)
    path = placed(hub_path(url), from_url(url), f"download {url} elsewhere and put it there", weights)
    weights(path)
    return entry.theirs(Path())


def _of_drive(entry: Entry, model_dir: Path) -> nn.Module:
    for path, drive in zip(entry.files(model_dir), entry.ids(), strict=True):

        def download(aside: Path, drive: str = drive) -> object:
            return import_module("gdown").download(id=drive, output=os.fspath(aside))

        remedy = f"put the file there (Google Drive id {drive}, https://drive.google.com/uc?id={drive})"
        weights(placed(path, download, remedy, weights))
    return entry.theirs(model_dir)


def _of_custom(entry: Entry, custom: Path) -> nn.Module:
    """As theirs, which knows how each model's keys are written, from a folder that holds the custom file alone."""
    if isinstance(entry.content["gdrive_id"], list):
        count = len(entry.ids())
        raise ValueError(f"custom_checkpoint is one file and {entry.name} has {count}; put them into model_dir instead")
    weights(custom)
    with TemporaryDirectory() as folder:
        path = entry.files(Path(folder))[0]
        path.parent.mkdir(parents=True)
        try:
            path.symlink_to(custom.absolute())
        except OSError:  # Windows asks for a privilege
            shutil.copyfile(custom, path)
        try:
            return entry.theirs(Path(folder))
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), str(custom))) from error.__cause__


def _filled(model: nn.Module, path: Path, name: str) -> nn.Module:
    """The checkpoint in the model, or in the one that a normalising layer is put before."""
    state = weights(path)
    for key in ("state_dict_ema", "state_dict", "model"):
        state = state[key] if isinstance(state, dict) and key in state else state
    try:
        state = {key.removeprefix("module."): value for key, value in state.items()}
        bare = isinstance(model, nn.Sequential) and not any(key.startswith("model.") for key in state)
        (cast(nn.Module, model.model) if bare else model).load_state_dict(state)
    except (AttributeError, RuntimeError) as error:
        raise ValueError(f"{name} does not take the weights in {path}: {one_line(error)}") from error
    return model


@contextmanager
def building() -> Iterator[None]:
    """Generators stay, old names do not warn, and factories that call .cuda() build on machines without CUDA too."""
    cuda = torch.Tensor.cuda
    with keeping_random(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.Tensor.cuda = cuda  # type: ignore[method-assign]
