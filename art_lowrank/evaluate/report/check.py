"""Whether a record can be one of an evaluation: everything that a report takes for granted is looked at here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from art_lowrank.evaluate.plan import CLEAN
from art_lowrank.record import Record, bits

PACKED, TEXTS = ("robust", "attacked", "dead"), ("model_hash", "threat")
LISTS = ("values", "breaking", "doubts", "shape")
LARGEST = 1e15  # of any number; nothing that is counted or measured comes near


def check_record(record: Record) -> None:
    """Raise with words for what is wrong with it."""
    _of_type("the record", vars(record), {"model": str, "data": str, "attack": str})
    f"{record.model}{record.data}{record.attack}".encode()
    _of_type("versions", record.versions, dict.fromkeys(record.versions, str))
    settings, values = record.settings, record.values
    _of_type("settings", settings, {"cell": str, "start": int, "stop": int, "meant": Mapping})
    _of_type("meant", mapping(settings["meant"]), {"model": object, "data": object, "attack": object})
    start, stop = int(str(settings["start"])), int(str(settings["stop"]))
    if not 0 <= start < stop or stop - start != record.n or not isinstance(record.seed, int):
        raise ValueError(f"is of images {start} to {stop}, n {record.n}, seed {record.seed!r}")
    if values["status"] == "failed":
        _of_type("values", values, {"error": str, "type": str})
    else:
        _check_outcome(record)


def _check_outcome(record: Record) -> None:
    values = record.values
    _of_type("values", values, {"robust": str} if record.attack == CLEAN else {"robust": str, "attacked": str})
    for name in PACKED:
        if name in values:
            bits(str(values[name]), record.n)
    for names, kind in ((TEXTS, str), (LISTS, list)):
        _of_type("values", values, {name: kind for name in names if name in values})
    if "threat" in values and not re.fullmatch(r"\S+ [-+.\de/]+( tile \d+)?", str(values["threat"])):
        raise ValueError(f"has values.threat {str(values['threat'])[:40]!r}")
    for name, value in (*values.items(), *record.volatile.items()):
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise ValueError(f"has a number {name} beyond {LARGEST:g}")
    _check_curve(values, record.n)


def _check_curve(values: Mapping[str, Any], n: int) -> None:
    """Numbers of a curve, and of an image's shape."""
    for name in ("values", "shape"):
        if name in values and not all(map(_positive, values[name])):
            raise ValueError(f"has values.{name} {str(values[name])[:40]}")
    if "values" in values and len(values["breaking"]) != n:
        raise ValueError(f"has {len(values['breaking'])} numbers `breaking` for {n} images")


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST


def _of_type(name: str, found: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for key, kind in kinds.items():
        if not isinstance(found[key], kind) or isinstance(found[key], bool):
            raise ValueError(f"has {name}.{key} {str(found[key])[:40]!r}")


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, which must be one."""
    if not isinstance(value, Mapping):
        raise TypeError(f"has {str(value)[:40]!r} where a mapping should be")
    return value
