"""The folder of an evaluation: records as JSON lines, adversarial images beside them, a lock on every cell at work."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import save
from torch import Tensor

from art_lowrank.evaluate.outcome import ASKED, IMAGES, LOCK, MARK, RECORDS
from art_lowrank.evaluate.plan import Cell
from art_lowrank.files import write_whole
from art_lowrank.record import TORN, Record, append

try:
    import fcntl
except ImportError:  # Windows: one process a folder
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
OLD = 60  # seconds after which an unfinished mark is nobody's
# Keys of a record's `volatile` field: what may differ when the same cell is run again. All other fields are equal.
VOLATILE = ("seconds", "peak_bytes", "host", "device", "threads", "batch_size", "halved", "channels_last", "finished")
_HEAD = re.compile(rb'\{"kind": ".*?"settings": \{"cell": "([0-9a-f]{12})"')  # how the line of a cell begins
CLOSING = ord("}")


class Store:
    """An evaluation's folder. Several processes may work in it: what one appends, the others see by `refresh`.

    One a process: its locks are the system's, which lets go of them all when the process closes the file once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_ours(self.path)
        (self.path / IMAGES).mkdir(parents=True, exist_ok=True)
        if not (self.path / MARK).exists():
            write_whole(self.path / MARK, json.dumps({"art_lowrank": "evaluation", "format": FORMAT}).encode())
        self._lock: BinaryIO = (self.path / LOCK).open("ab")
        self._left = _left_behind(self.path)
        self._places: dict[str, tuple[int, int]] = {}
        self._read = 0
        try:
            self.refresh()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def __contains__(self, cell: str) -> bool:
        return cell in self._places

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Take note of the records that were appended since the last look."""
        records = self.path / RECORDS
        if not records.exists() or records.stat().st_size == self._read:
            return
        with records.open("rb") as file:
            file.seek(self._read)
            self._index(file.read())

    def place(self, cell: str) -> int:
        """Where the last record of a cell begins in the file."""
        return self._places[cell][0]

    def get(self, cell: str) -> Record | None:
        """The last record of a cell, or None."""
        return self.read([cell]).get(cell)

    def read(self, cells: Iterable[str]) -> dict[str, Record]:
        """The last record of every one of these cells that has one."""
        places = {cell: self._places[cell] for cell in cells if cell in self._places}
        if not places:
            return {}
        with (self.path / RECORDS).open("rb") as file:
            return {cell: self._record(file, *place) for cell, place in places.items()}

    def ask(self, cells: Iterable[Cell]) -> None:
        """Write down what is to be run, so that a report knows what is missing; the same again changes nothing."""
        asked = [[cell.id, cell.model, cell.images, cell.attack, cell.seed] for cell in cells]
        data = json.dumps({"cells": asked}).encode()
        path = self.path / ASKED / f"{hashlib.sha256(data).hexdigest()[:12]}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, data)

    def add(self, record: Record, tensors: Mapping[str, Tensor]) -> None:
        """Keep a cell's outcome: its images first, then its record, which is what makes it done."""
        if tensors:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            write_whole(self.images_of(str(record.settings["cell"])), save(whole))
        append(self.path / RECORDS, record)
        self.refresh()

    def images_of(self, cell: str) -> Path:
        """Where a cell's images lie."""
        return self.path / IMAGES / f"{cell}.safetensors"

    @contextmanager
    def claim(self, cell: str) -> Iterator[bool]:
        """Whether the cell is ours for the time of the block; the lock goes with the process, however it ends."""
        if not self._locked(cell):
            yield False
            return
        try:
            for leftover in self._left.pop(cell, ()):
                leftover.unlink(missing_ok=True)
            yield True
        finally:
            if fcntl is not None:
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, int(cell, 16))

    def tidy(self) -> None:
        """Delete what processes left unfinished that were killed since this one came."""
        self._left = _left_behind(self.path)
        for cell in list(self._left):
            with self.claim(cell):
                pass

    def _locked(self, cell: str) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(cell, 16))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _index(self, text: bytes) -> None:
        """Where every record of the text begins and ends; a last line without its end waits for the next look."""
        start = 0
        while (end := text.find(b"\n", start)) >= 0:
            head = _HEAD.match(text, start, end)
            if head and text[end - 1] == CLOSING:
                self._places[head[1].decode()] = self._read + start, self._read + end
            else:
                self._note(text[start:end], start, end)
            start = end + 1
        if start < len(text) and _whole(text[start:]):
            self._note(text[start:], start, len(text))
            start = len(text)
        self._read += start

    def _note(self, line: bytes, start: int, end: int) -> None:
        line = line.rstrip()
        if line.endswith(TORN) or not line or line == TORN.strip():
            torn = line.removesuffix(TORN.strip()).rstrip()
            if not torn or not _whole(torn):
                return
            line, end = torn, start + len(torn)
        found = _HEAD.match(line)
        if not found or line[-1] != CLOSING:
            raise ValueError(
                f"{self.path / RECORDS} is damaged at byte {self._read + start}: "
                f"{line[:40].decode(errors='replace')!r} is no record; mend or delete that line"
            )
        self._places[found[1].decode()] = self._read + start, self._read + end

    def _record(self, file: BinaryIO, start: int, end: int) -> Record:
        file.seek(start)
        try:
            return Record(**json.loads(file.read(end - start)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path / RECORDS} is damaged at byte {start}: {error}") from error


def _whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def check_ours(path: Path) -> None:
    """A new or empty folder, or one of an evaluation."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder with --out")
    mark = path / MARK
    if mark.exists():
        found = _json(mark)
        if found.get("art_lowrank") != "evaluation" or found.get("format") != FORMAT:
            raise ValueError(f"{mark} is of another program or version; give another folder with --out")
        return
    foreign = [entry.name for entry in os.scandir(path) if not entry.name.startswith(MARK)] if path.exists() else []
    if foreign and foreign != [IMAGES] and not mark.exists():  # another process may have made it just now
        raise ValueError(
            f"{path} is no folder of an evaluation (it holds {sorted(foreign)[0]!r}); give another with --out"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _left_behind(path: Path) -> dict[str, list[Path]]:
    """Unfinished image files by cell, of processes that were killed (or are at work: then their cells are locked)."""
    for entry in path.glob(f"{MARK}.*.tmp"):
        if time.time() - entry.stat().st_mtime > OLD:
            entry.unlink(missing_ok=True)
    found: dict[str, list[Path]] = {}
    for item in os.scandir(path / IMAGES):
        if item.name.endswith(".tmp"):
            found.setdefault(item.name.split(".")[0], []).append(Path(item.path))
    return found
