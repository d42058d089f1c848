"""Files that are whole or not there: written aside, synced, then renamed over what was there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Put the bytes at `path`; if anything fails (a full disk, a kill), the file that was there is still there."""
    with writing(path) as aside, aside.open("wb") as file:
        file.write(data)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write what shall lie at `path`: it gets there, synced, when the block ends without an exception."""
    path = Path(path)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        _sync(os.open(aside, os.O_RDWR))
        aside.replace(path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """The new name too, where folders can be opened at all."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    _sync(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
