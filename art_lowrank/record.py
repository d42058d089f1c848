"""One dataclass for every measurement, and the append-only JSONL file it lives in.

A file may end in a torn line, left without its newline by a writer that was stopped in the middle. `append` then
closes that line with the mark ` #torn` and starts on a fresh one. `read` forgives an unreadable line only if it bears
the mark or is the file's last and has no newline; any other is an error, so damage is never passed over.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
SCHEMA = 1
TORN = b" #torn"
IDENTITY = ("kind", "model", "data", "attack", "seed", "n", "settings", "schema")


@dataclass(frozen=True)
class Record:
    """One measurement: what was asked, what came out, and what may differ when it is run again.

    The mappings are copied into plain JSON types (tuples become lists) and NaN, infinity and numpy scalars are
    refused, so a record that exists can be written and is read back equal.
    """

    kind: str  # what experiment
    model: str
    data: str
    attack: str
    seed: int | None
    n: int
    settings: Mapping[str, JSON]
    values: Mapping[str, JSON]  # results, packed per-image outcomes among them
    volatile: Mapping[str, JSON] = field(default_factory=dict)  # times, memory, host, device
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check the fields once and take copies of the mappings."""
        _check_schema(self.schema)
        for name in (item.name for item in fields(self)):
            plain = _plain(getattr(self, name), name)
            if name in ("settings", "values", "volatile", "versions") and not isinstance(plain, dict):
                raise ValueError(f"{name} must be a mapping, got {plain!r}")
            object.__setattr__(self, name, plain)

    @property
    def id(self) -> str:
        """What was asked as 12 hex digits; results, times and versions do not enter, and 1 counts as 1.0."""
        asked = {name: _whole(getattr(self, name)) for name in IDENTITY}
        return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def append(path: str | Path, record: Record) -> None:
    """Add the record as one whole line, on disk when this returns; the folder is made if need be.

    The line goes out in a single write to the end of the file, so processes may append to one local file at a time.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(record), allow_nan=False).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        text = TORN + b"\n" + line if _ends_torn(descriptor) else line
        written = os.write(descriptor, text)
        if written != len(text):  # a second write could land behind another process's line
            raise OSError(f"{path}: only {written} of {len(text)} bytes were written; make room and append again")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: str | Path, leave_out: Iterable[str] = ()) -> list[Record]:
    """All records of the file in their order; torn lines are skipped (see the module's docstring).

    `leave_out` names long values nobody is going to ask for.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            records += _parse(line, number == len(lines), leave_out)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is not a record: {error}") from error
    return records


def pack(flags: Iterable[bool]) -> str:
    """Per-image booleans as hex, four a digit, the first flag in the highest bit: 1 0 1 0 1 is "a8"."""
    found = "".join(_bit(flag) for flag in flags)
    return "".join(f"{int(found[start : start + 4].ljust(4, '0'), 2):x}" for start in range(0, len(found), 4))


def unpack(text: str, n: int) -> list[bool]:
    """The n booleans that `pack` wrote: `unpack("a8", 5)` is True, False, True, False, True."""
    return [bit == "1" for bit in bits(text, n)]


def bits(text: str, n: int) -> str:
    """The same as a text of n letters, `bits("a8", 5)` is "10101"."""
    if n < 0 or len(text) != (n + 3) // 4 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{n} flags are {(n + 3) // 4} lower-case hex digits, got {len(text)}: {text[:40]!r}")
    found = f"{int(text or '0', 16):0{4 * len(text)}b}"
    if "1" in found[n:]:
        raise ValueError(f"the text holds more flags than n={n}: its last digit is {text[-1]!r}")
    return found[:n]


def versions(*names: str) -> dict[str, str]:
    """The versions of Python and of the named distributions; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _parse(line: bytes, last: bool, leave_out: Iterable[str]) -> list[Record]:
    """The line's record, or none if the line is empty or torn; one that lacked nothing but its newline counts."""
    text = line.strip().removesuffix(TORN.strip())
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        if not text or last or text != line.strip():
            return []
        raise
    return [_from_json(found, leave_out)]


def _from_json(found: object, leave_out: Iterable[str]) -> Record:
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {str(found)[:40]}")
    if isinstance(values := found.get("values"), dict):
        for name in leave_out:
            values.pop(name, None)
    _check_schema(found.get("schema"))  # first: a newer schema may bring fields that Record does not know
    return Record(**found)


def _check_schema(schema: object) -> None:
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(f"schema {schema} is newer than {SCHEMA}, the newest known here: upgrade art-lowrank")
    if schema != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, got {schema!r}")


def _ends_torn(descriptor: int) -> bool:
    if os.lseek(descriptor, 0, os.SEEK_END) == 0:
        return False
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) != b"\n"


def _plain(value: object, where: str) -> JSON:
    """The value in plain JSON types, or a ValueError that says where it is something else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold: write None and say why beside it")
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        if unnamed := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{where} has the key {unnamed[0]!r}: JSON keys are text, write {str(unnamed[0])!r}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(f"{where} is a {type(value).__name__}, which is not JSON: use float(), int(), .tolist() or pack()")


def _whole(value: JSON) -> JSON:
    """The value with whole floats as ints, because eps=1 and eps=1.0 ask for the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {key: _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def _bit(flag: object) -> str:
    if flag not in (0, 1):
        raise ValueError(f"pack takes flags of True or False, got {flag!r}")
    return "1" if flag else "0"
