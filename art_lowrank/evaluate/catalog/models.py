"""Models by name: the built-in digits nets, RobustBench's zoo, torchvision, timm, or `module:callable`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from art_lowrank.evaluate.bench import ModelEntry, Subject, file_hash, weights_hash
from art_lowrank.evaluate.catalog.normalised import Normalised, check_numbers, typed
from art_lowrank.evaluate.catalog.pretrained import is_file, of_timm, of_torchvision
from art_lowrank.evaluate.catalog.weights import read_state, with_state
from art_lowrank.evaluate.reproducible import reproducible
from art_lowrank.evaluate.spec import Spec, check_known, existing, nearest
from art_lowrank.training.checkpoint import reason
from art_lowrank.training.run import here

INPUT = ("mean", "std", "scale")  # options every model takes: what is done to images in [0, 1]
KINDS = (
    "digits:standard",
    "robustbench:cifar10/L2/Standard",
    "torchvision:resnet18",
    "timm:resnet18",
    "module:callable",
)


class Loaded(NamedTuple):
    """A model on the CPU, and what is known of it."""

    model: nn.Module
    preprocessing: Any = None
    packages: tuple[str, ...] = ()


Maker: TypeAlias = tuple[Callable[[], Loaded], dict[str, str]]  # what loads it, and hashes of its files by path


def model_entry(spec: Spec, model_dir: str) -> ModelEntry:
    """The model of that name; files it names are hashed now, weights are loaded when it is its turn."""
    kind, colon, name = spec.name.partition(":")
    if not colon or not name:
        raise ValueError(f"{spec}: {nearest(spec.name, KINDS, 'model')}")
    if spec.words:
        raise ValueError(f"{spec}: {spec.words[0]!r} has no value; write {spec.words[0]}=...")
    for key in INPUT:
        check_numbers(key, spec.options.get(key), spec)
    weights = spec.options.get("weights")
    own = {key: value for key, value in spec.options.items() if key not in INPUT}
    make, files = MAKERS.get(kind, _callable)(spec, name, own, model_dir)
    if weights is not None and (kind != "torchvision" or is_file(str(weights))):
        files[str(weights)] = file_hash(existing(str(weights), spec))

    def load(device: torch.device) -> Subject:
        with reproducible(0):  # a net without weights is the same one every time
            model, preprocessing, packages = make()
        model = typed(model)
        if any(key in spec.options for key in INPUT):
            given: dict[str, Any] = {key: spec.options[key] for key in INPUT if key in spec.options}
            model = Normalised(model, **given)
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # no attack needs them, and some would add to their gradients
        return Subject(model.to(device).eval(), weights_hash(model), preprocessing, packages)

    return ModelEntry(spec.text, {"spec": spec.identity, "files": sorted(files.values())}, load)


def _digits(spec: Spec, name: str, own: Mapping[str, Any], _: str) -> Maker:
    from art_lowrank.demo.nets import FOLDER, RECIPES, built_in

    check_known(own, (), spec)
    if name not in RECIPES:
        raise ValueError(f"{spec}: {nearest(name, RECIPES, 'digits net')}")
    path = FOLDER / f"{name}.safetensors"
    return lambda: Loaded(built_in(name)), {str(path): file_hash(path)}


def _robustbench(spec: Spec, name: str, own: Mapping[str, Any], model_dir: str) -> Maker:
    from art_lowrank.hosts import robustbench

    check_known(own, (), spec)
    parts = name.split("/")
    if len(parts) != 3:
        raise ValueError(f"{spec}: write robustbench:DATASET/THREAT/NAME, such as {KINDS[1]}")
    dataset, threat, model = parts
    threat = {"l2": "L2", "linf": "Linf"}.get(threat.lower(), threat)
    known = robustbench.available(dataset, threat)
    if model not in known:
        raise ValueError(f"{spec}: {nearest(model, known, f'model of RobustBench ({dataset}, {threat})')}")

    def make() -> Loaded:
        found = robustbench.load_model(model, model_dir, dataset, threat)
        return Loaded(found, robustbench.preprocessing_of(model, dataset, threat), ("robustbench", "timm"))

    return make, {}


def _torchvision(spec: Spec, name: str, own: Mapping[str, Any], _: str) -> Maker:
    make = of_torchvision(spec, name, own)
    return lambda: Loaded(*make(), ("torchvision",)), {}


def _timm(spec: Spec, name: str, own: Mapping[str, Any], _: str) -> Maker:
    make = of_timm(spec, name, own)
    return lambda: Loaded(*make(), ("timm",)), {}


def _callable(spec: Spec, name: str, own: Mapping[str, Any], _: str) -> Maker:
    """`module:callable`: what it returns for the options that are its own, with `weights` put in."""
    place = spec.name.partition(":")[0]
    source = _source(spec, place)
    function = _function(spec, place, name)
    arguments = {key: value for key, value in own.items() if key != "weights"}
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{spec}: {name} does not take these options ({error})") from None
    except ValueError:
        pass  # a callable that does not tell what it takes

    def make() -> Loaded:
        with here():
            model = function(**arguments)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{spec} returned a {type(model).__name__}; it must return a torch.nn.Module")
        with suppress(Exception):  # some cannot be copied
            model = copy.deepcopy(model)  # the callable may hand out a net that is somebody else's
        weights = own.get("weights")
        return Loaded(model if weights is None else with_state(model, read_state(str(weights)), str(weights)))

    return make, {} if source is None else {str(source): file_hash(source)}


def _source(spec: Spec, place: str) -> Path | None:
    """The file a module comes from: with another one the model is another one."""
    try:
        with here():
            found = find_spec(place)
    except (Exception, SystemExit) as error:  # a package around it is imported, and may do anything
        raise ValueError(f"{spec}: module {place!r} cannot be found ({reason(error)})") from None
    if found is None:
        raise ValueError(f"{spec}: there is no module {place!r}; {nearest(spec.name, KINDS, 'model')}")
    return Path(found.origin) if found.origin and found.origin.endswith(".py") else None


def _function(spec: Spec, place: str, name: str) -> Any:
    try:
        with here():
            module = import_module(place)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise ValueError(f"{spec}: importing {place} fails: {reason(error)}") from error
    if not callable(function := getattr(module, name, None)):
        known = [key for key, item in vars(module).items() if callable(item) and not key.startswith("_")]
        raise ValueError(f"{spec}: {nearest(name, known, f'callable of {place}')}")
    return function


MAKERS: dict[str, Callable[[Spec, str, Mapping[str, Any], str], Maker]] = {
    "digits": _digits,
    "robustbench": _robustbench,
    "torchvision": _torchvision,
    "timm": _timm,
}
