"""Pretrained models of torchvision and timm, with their own preprocessing and normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from art_lowrank.evaluate.catalog.normalised import Normalised
from art_lowrank.evaluate.catalog.weights import read_state, with_state
from art_lowrank.evaluate.spec import Spec, nearest
from art_lowrank.training.checkpoint import reason

Made = Callable[[], tuple[nn.Module, Any]]


def of_torchvision(spec: Spec, name: str, own: Mapping[str, Any]) -> Made:
    """A classifier of torchvision, with one of its sets of weights or with a file of one's own."""
    models, transforms = _torchvision(spec)
    if name not in models.list_models(module=models):
        raise ValueError(f"{spec}: {nearest(name, models.list_models(module=models), 'model of torchvision')}")
    known, weights = models.get_model_weights(name), str(own.get("weights", "DEFAULT"))
    arguments = {key: value for key, value in own.items() if key != "weights"}
    if is_file(weights):
        return lambda: (with_state(models.get_model(name, **arguments), read_state(weights), weights), None)
    if weights != "DEFAULT" and weights not in known.__members__:
        raise ValueError(f"{spec}: {nearest(weights, known.__members__, f'weights of {name}')}")
    chosen = known[weights] if weights != "DEFAULT" else known.DEFAULT

    def make() -> tuple[nn.Module, Any]:
        try:
            model = models.get_model(name, weights=chosen, **arguments)
        except (URLError, OSError) as error:
            place = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rsplit("/", 1)[-1]
            raise OSError(f"{spec} cannot be downloaded ({reason(error)}); put {chosen.url} to {place}") from error
        cut = chosen.transforms()
        steps = [
            transforms.Resize(cut.resize_size, interpolation=cut.interpolation),
            transforms.CenterCrop(cut.crop_size),
            transforms.ToTensor(),
        ]
        return Normalised(model, cut.mean, cut.std), transforms.Compose(steps)

    return make


def of_timm(spec: Spec, name: str, own: Mapping[str, Any]) -> Made:
    """A classifier of timm, pretrained or with weights of one's own; other options are timm's."""
    try:
        timm, config = import_module("timm"), import_module("timm.data.config")
    except ImportError as error:
        raise ValueError(f"{spec}: timm is not installed; pip install timm") from error
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"{spec}: {nearest(name, timm.list_models(), 'model of timm')}")
    _, transforms = _torchvision(spec)
    weights = own.get("weights")
    arguments = {key: value for key, value in own.items() if key != "weights"}

    def make() -> tuple[nn.Module, Any]:
        try:
            model = timm.create_model(name, pretrained=weights is None, **arguments)
        except (OSError, RuntimeError, ValueError) as error:  # its hub client has exceptions of its own, all of these
            raise OSError(
                f"{spec} cannot be had ({reason(error)}); without network give its file: {spec.name}[weights=FILE]"
            ) from error
        if weights is not None:
            model = with_state(model, read_state(str(weights)), str(weights))
        known = config.resolve_model_data_config(model)
        side = known["input_size"][-1]
        steps = [
            transforms.Resize(
                math.floor(side / known["crop_pct"]),
                interpolation=transforms.InterpolationMode(known["interpolation"]),
            ),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
        ]
        return Normalised(model, known["mean"], known["std"]), transforms.Compose(steps)

    return make


def is_file(weights: str) -> bool:
    """A path, and not the name of a set of weights."""
    return weights.endswith((".safetensors", ".pt", ".pth", ".bin"))


def _torchvision(spec: Spec) -> tuple[Any, Any]:
    try:
        from torchvision import models, transforms
    except (ImportError, RuntimeError) as error:  # an installation that does not fit torch raises RuntimeError
        raise ValueError(f"{spec}: torchvision does not import ({reason(error)}); pip install torchvision") from error
    return models, transforms
