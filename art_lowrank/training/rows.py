"""Where stored perturbations lie: one row of float16 an image, in memory or in a file that is mapped into it.

A file is a header of 4096 bytes in JSON, a byte an image that says whether its row was ever written, and the rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from art_lowrank.files import sync_folder

HEADER, CHUNK, MANY = 4096, 1 << 24, 1 << 14  # bytes, bytes, rows
NAME, WRITING = "epoch-{:06d}{}.perturbations", "writing{}.perturbations"  # behind them, which shard of how many
FORMAT = "art_lowrank perturbations 1"
Halves = npt.NDArray[np.float16]
Flags = npt.NDArray[np.bool_]
Header = Mapping[str, Any]


class Rows(NamedTuple):
    """The rows (n, width), and which of them were ever written (n,)."""

    values: Halves
    seen: Flags


def empty(n: int, width: int) -> Rows:
    """Rows in memory, none written."""
    return Rows(np.zeros((n, width), np.float16), np.zeros(n, np.bool_))


def create(path: Path, header: Header, n: int, width: int) -> Rows:
    """A new file, all of whose space is the file system's word: a full disk is an error now, not a crash later."""
    text = json.dumps({"format": FORMAT, **header}).encode()
    if len(text) >= HEADER:
        raise ValueError(f"the header of {path} takes {len(text)} bytes; give a shorter name of the data")
    try:
        with path.open("wb") as file:
            file.write(text.ljust(HEADER - 1) + b"\n")
            file.flush()
            _reserve(file, size_of(n, width))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(
            f"{path} of {size_of(n, width) / 1e6:.1f} MB was not made ({error}); perturbations of the epoch before are "
            "intact: make room or give another folder, and run again"
        ) from error
    return _mapped(path, n, width, "r+")


def open_rows(path: Path, header: Header, n: int, width: int) -> Rows:
    """The rows of a file, to be read; one of other data, another shape or rank, or of another length is refused."""
    check(path, header)
    size = path.stat().st_size
    if size != size_of(n, width):
        raise ValueError(
            f"{path} is {size} bytes long, not {size_of(n, width)}: it was cut; delete it, and attacks start from noise"
        )
    return _mapped(path, n, width, "r")


def check(path: Path, header: Header) -> None:
    """Refuse a file that holds something else than what is asked for."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(HEADER))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or holds no perturbations; delete it, and attacks start from noise"
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} holds no perturbations of this version; give another folder, or delete it")
    for name, value in header.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path} holds perturbations with {name} {found.get(name)!r}, asked is {value!r}; "
                "give another folder, or delete it"
            )


def sync(rows: Rows) -> None:
    """On disk when this returns."""
    for part in rows:
        if isinstance(part, np.memmap):
            part.flush()


def files_in(folder: Path) -> list[Path]:
    """The perturbations that are kept in a folder."""
    return sorted(folder.glob(NAME.format(0, "").replace("000000", "*")))


def number_of(file: Path) -> int:
    """The epoch after which it was written."""
    digits = file.name.removeprefix("epoch-").partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def erase(folder: str | os.PathLike[str], but: int | None = None, of: int = 1) -> None:
    """Delete the perturbations kept in a folder, but those of one epoch; the folder is made if need be.

    Of several processes each may do it: none takes away what another one of `of` is writing.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder} cannot be a folder for perturbations ({error}); give another") from error
    theirs = f"-of-{of}." if of > 1 and but is not None else None
    done, begun = files_in(folder), folder.glob(WRITING.format("*"))
    lost = [file for file in done if not but or number_of(file) != but]
    for file in (*lost, *(file for file in begun if theirs is None or theirs not in file.name)):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(f"{file} cannot be deleted ({error}); give another folder") from error


def renamed(file: Path, name: Path) -> None:
    """Put a file that is whole under the name it will be looked for."""
    try:
        file.replace(name)
    except FileNotFoundError as error:
        raise OSError(f"{file} was taken away while it was written; give every run a folder of its own") from error
    sync_folder(name.parent)


def size_of(n: int, width: int) -> int:
    """Bytes of a file."""
    return _first(n) + 2 * n * width


def _first(n: int) -> int:
    """Where the rows begin: behind a flag an image, at a place that suits wide loads."""
    return HEADER + -(-n // 64) * 64


def _mapped(path: Path, n: int, width: int, mode: Any) -> Rows:
    seen = np.memmap(path, np.bool_, mode, HEADER, (n,))
    return Rows(np.memmap(path, np.float16, mode, _first(n), (n, width)), seen)


def _reserve(file: BinaryIO, size: int) -> None:
    """Space for the whole file: a mapped write where there is none would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(HEADER, size, CHUNK):  # macOS and Windows have no such call
        file.write(bytes(min(CHUNK, size - start)))
    file.flush()
