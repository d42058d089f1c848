"""What lies in an evaluation's folder as images: a gallery, and singular values of perturbations."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.outcome import IMAGES
from art_lowrank.evaluate.report.chart import TOGETHER, Chart, Mark, Series
from art_lowrank.evaluate.report.order import LOW_RANK, variant_of
from art_lowrank.evaluate.rows import Row, flags_of
from art_lowrank.record import Record

COLUMNS, LARGEST = 4, 64  # images shown; pixels a side
LOOK, PIXELS = 24, 100_000  # images measured, fewer where these are more
FLOOR = 1e-4  # singular values below it are drawn there

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """One image as a PNG in the page."""

    src: str
    words: str
    side: int


@dataclass(frozen=True)
class Shown:
    """One image of the data, and what attacks made of it."""

    clean: Picture
    attacked: tuple[tuple[str, Picture, Picture], ...]  # the attack, what it adds (magnified), what comes out


class Slice:
    """The images of one cell by their places in the data, as far as somebody asks."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.path = folder / IMAGES / f"{record.settings['cell']}.safetensors"
        with safe_open(self.path, framework="np") as file:
            self.rows: Array = file.get_tensor("rows")
            self.said: Array = file.get_tensor("said")
            self.y: Array | None = file.get_tensor("y") if "y" in file.keys() else None  # noqa: SIM118  no mapping
            shape = file.get_slice("x").get_shape()
        flat = [self.rows, self.said] + ([] if self.y is None else [self.y])
        if len(shape) != 4 or any(part.shape != (shape[0],) or part.dtype.kind not in "iu" for part in flat):
            raise ValueError(f"{self.path} holds images {shape} with rows, answers or labels that do not fit")
        self.rows = self.rows + int(str(record.settings["start"]))
        self.pixels = int(np.prod(shape[1:]))
        self.places = {int(row): place for place, row in enumerate(self.rows)}

    def images(self, rows: Sequence[int]) -> Array:
        """Images one by one from the file, float64."""
        with safe_open(self.path, framework="np") as file:
            kept = file.get_slice("x")
            found = np.concatenate([kept[self._at(row) : self._at(row) + 1] for row in rows])
        return found.astype(np.float64) / (255 if found.dtype == np.uint8 else 1)

    def answer(self, row: int) -> int:
        """The class the model took the image for."""
        return int(self.said[self._at(row)])

    def label(self, row: int) -> str:
        """The class it is of, where that was kept."""
        return "" if self.y is None else f"label {int(self.y[self._at(row)])}, "

    def _at(self, row: int) -> int:
        if row not in self.places:
            raise ValueError(f"{self.path} lacks image {row}")
        return self.places[row]


def _clean(folder: Path, entry: Entry, row: Row) -> Slice:
    """The clean images of an attack's first slice."""
    start, stop = row.slices[0]
    for record in entry.clean.done:
        if int(str(record.settings["start"])) <= start and stop <= int(str(record.settings["stop"])):
            return Slice(folder, record)
    raise ValueError("clean images and attacked ones were cut into other slices")


def gallery(folder: Path, entry: Entry) -> list[Shown]:
    """Images that the shown attacks broke: clean, perturbations of low and of high rank, what came out."""
    if not entry.counted or not entry.clean.done:
        return []
    rows = [row for row in _chosen(entry) if row.slices[0] == _chosen(entry)[0].slices[0]]
    attacks = [(row, Slice(folder, row.done[0])) for row in rows]
    clean, start = _clean(folder, entry, rows[0]), rows[0].slices[0][0]
    reached = np.logical_and.reduce([flags_of(row.done[0], "attacked") for row in rows])
    counts = np.sum([~flags_of(row.done[0], "robust") for row in rows], axis=0) * reached
    places = np.argsort(-counts, kind="stable")[:COLUMNS]
    return [_shown(clean, attacks, start, int(place)) for place in sorted(places) if counts[place]]


def _chosen(entry: Entry) -> list[Row]:
    """The attack of least rank, and the strongest of all others."""
    whole = _plain(entry)
    low = [row for row in whole if variant_of(row).level == LOW_RANK]
    rest = [row for row in whole if row not in low] or low[1:]
    first = min(low, key=lambda row: variant_of(row).rank or np.inf, default=None)
    last = min(rest, key=lambda row: int(row.robust.sum()), default=None)
    return [row for row in (first, last) if row is not None] or list(entry.counted[:1])


def _plain(entry: Entry) -> list[Row]:
    """The attacks, one seed each; without curves, whose images were broken at different ranks or radii."""
    rows = [row for row in entry.counted if not row.after] or list(entry.counted)
    return list({row.attack: row for row in reversed([row for row in rows if not row.curve] or rows)}.values())[::-1]


def _shown(clean: Slice, attacks: Sequence[tuple[Row, Slice]], start: int, place: int) -> Shown:
    at = start + place
    x = clean.images([at])[0]
    found = []
    for row, kept in attacks:
        moved = kept.images([at])[0]
        delta = moved - x
        by = 0.5 / max(float(np.abs(delta).max()), 1e-9)
        holds = "" if not flags_of(row.done[0], "robust")[place] else " (holds)"
        words = (
            f"perturbation of {row.attack}, enlarged {by:.1f} times" if delta.any() else f"{row.attack} adds nothing"
        )
        added = picture(0.5 + by * delta, words)
        found.append((row.attack, added, picture(moved, f"read as {kept.answer(at)}{holds}")))
    return Shown(picture(x, f"image {at}: {clean.label(at)}read as {clean.answer(at)}"), tuple(found))


def spectra(folder: Path, entry: Entry) -> Chart | None:
    """Singular values of what attacks added, relative to the largest: median and quartiles over images and channels."""
    series = []
    for row in _plain(entry)[:TOGETHER]:
        kept, clean = Slice(folder, row.done[0]), _clean(folder, entry, row)
        rows = kept.rows[: max(4, min(LOOK, PIXELS // kept.pixels))].tolist()
        if not rows:
            continue
        delta = kept.images(rows) - clean.images(rows)
        values = np.linalg.svd(delta[np.isfinite(delta).all((1, 2, 3))], compute_uv=False)
        values = values.reshape(-1, values.shape[-1])
        moved = values[values[:, 0] > 0]
        if len(moved):
            series.append(Series(row.attack, tuple(_marks(moved / moved[:, :1]))))
    if not series:
        return None
    most = max(len(line.marks) for line in series)
    ticks = tuple((float(rank), str(rank)) for rank in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if rank <= most)
    return Chart(
        "Singular values of the perturbations", "singular value no.", "relative to the largest", tuple(series), ticks,
        y_ticks=(FLOOR, 1e-3, 1e-2, 0.1, 1), log_x=True, log_y=True,
        words="; ".join(f"{line.name}: value 2 is {line.marks[1].y:.2g} of the first" for line in series if most > 1),
    )  # fmt: skip


def _marks(values: Array) -> Iterator[Mark]:
    for place, (low, middle, high) in enumerate(np.quantile(values, [0.25, 0.5, 0.75], axis=0).T, start=1):
        yield Mark(float(place), *(max(float(value), FLOOR) for value in (middle, low, high)))


def readable(error: BaseException) -> str:
    """Why there are no pictures, in a line."""
    missing = isinstance(error, FileNotFoundError) or "No such file" in str(error)
    return "the images were not kept (--no-images), or by an older version" if missing else " ".join(str(error).split())


UNREADABLE = (
    OSError,
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)


def picture(image: Array, words: str) -> Picture:
    """(c, h, w) in [0, 1] as a PNG in a data address; large ones are made smaller by means over blocks."""
    image = _smaller(image if image.shape[0] in (1, 3) else image[:1])
    pixels = (np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    src = "data:image/png;base64," + base64.b64encode(png_of(pixels)).decode()
    return Picture(src, words, max(96, image.shape[2]))


def _smaller(image: Array) -> Array:
    by = min(-(-max(image.shape[1:]) // LARGEST), min(image.shape[1:]))
    if by == 1:
        return image
    height, width = (size // by * by for size in image.shape[1:])
    blocks = image[:, :height, :width].reshape(len(image), height // by, by, width // by, by)
    found: Array = blocks.mean((2, 4))
    return found


def png_of(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG of (h, w, 1) grey or (h, w, 3) coloured pixels."""
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
