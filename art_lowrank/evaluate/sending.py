"""A model as bytes, for a machine that cannot make it by its name; what does not pickle is found and named."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

from torch import nn

from art_lowrank.evaluate.bench import Bench, Subject
from art_lowrank.evaluate.calibration import Calibration
from art_lowrank.evaluate.worker import Absent
from art_lowrank.training.checkpoint import reason

Pickle: TypeAlias = Callable[[Any], bytes]
DEEP = 12  # attributes of attributes that are looked into


def packed(subject: Subject, pickle: Pickle) -> bytes:
    """The model with what is known of it, or a ValueError that names what stands in the way."""
    try:
        return pickle(subject)
    except Exception as error:  # an object may raise anything when it is asked for its state
        where, what = culprit(subject.model, pickle)
        raise ValueError(f"{where} (a {what}) does not pickle: {reason(error)}") from None


def tried(
    ask: Callable[[Mapping[str, bytes]], Calibration | Absent], bench: Bench, pack: Callable[[Subject], bytes]
) -> Calibration:
    """What a worker finds, asked again with each model that it cannot make by its name."""
    sent: dict[str, bytes] = {}
    while isinstance(said := ask(sent), Absent):
        about = f"{said.host} cannot use {said.name} ({said.why})"
        if said.kind != "model" or said.sent:
            raise ValueError(f"{about}; install there what it is made of, at the same place")
        try:
            sent[said.name] = pack(bench.subject(said.name))
        except (Exception, SystemExit) as error:  # of somebody else's model
            raise ValueError(f"{about}, and it cannot be sent there: {reason(error)}") from error
    return said


def own_modules(folder: Path) -> list[ModuleType]:
    """Imported modules that lie in a folder, and so on this machine alone: their classes are to be sent by value."""
    found, folder = [], folder.resolve()
    installed = [Path(path).resolve() for path in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or module.__name__.partition(".")[0] in ("art_lowrank", "__main__"):
            continue
        path = Path(file).resolve()
        if path.is_relative_to(folder) and not any(path.is_relative_to(place) for place in installed):
            found.append(module)
    return found


def culprit(value: Any, pickle: Pickle, name: str = "model") -> tuple[str, str]:
    """The innermost part that does not pickle, as one would write it, and its type."""
    for _ in range(DEEP):
        broken = next(((how, part) for how, part in _parts(value) if not _pickles(part, pickle)), None)
        if broken is None:
            break
        name, value = f"{name}{broken[0]}", broken[1]
    return name, type(value).__name__


def _pickles(value: Any, pickle: Pickle) -> bool:
    try:
        pickle(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object is made of, with how one gets there."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{place}]", part) for place, part in enumerate(value))
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, FunctionType):
        names = value.__code__.co_freevars
        yield from ((f".{name}", cell.cell_contents) for name, cell in zip(names, value.__closure__ or (), strict=True))
    else:
        kept = dict(getattr(value, "__dict__", {}))
        for group in ("_modules", "_parameters", "_buffers") if isinstance(value, nn.Module) else ():
            kept |= kept.pop(group, {})
        yield from ((f".{name}", part) for name, part in kept.items())
