"""What cells are run with: models, images and attacks by name, loaded when first needed, the last model kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import art_lowrank
from art_lowrank.attack.factors import Factors
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import JSON, pack
from art_lowrank.record import versions as versions_of
from art_lowrank.training.data import Images
from art_lowrank.training.measure import fingerprint

ALWAYS = ("art-lowrank", "torch", "numpy")


@dataclass(frozen=True)
class Subject:
    """A model on its device: images in [0, 1] to logits, normalisation inside."""

    model: nn.Module
    hash: str  # of its weights
    preprocessing: Any = None  # how its images are cut and resized, where the data leave that open
    packages: tuple[str, ...] = ()  # distributions it depends on


@dataclass(frozen=True)
class Found:
    """What an attack gives for a batch: one row an image."""

    x: Tensor
    factors: Factors | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # (n,) bool or numbers
    facts: Mapping[str, JSON] = field(default_factory=dict)  # the same for every batch

    def on_cpu(self, like: Tensor) -> Found:
        """The same where the engine keeps it."""
        notes = {name: note.detach().cpu() for name, note in self.notes.items()}
        pair = None if self.factors is None else Factors(*(part.detach().cpu() for part in self.factors))
        return Found(self.x.detach().to("cpu", like.dtype), pair, notes, self.facts)

    @classmethod
    def joined(cls, parts: Sequence[Found], none: Tensor) -> Found:
        """Batches as one; `none` is what there is without any."""
        if not parts:
            return cls(none)
        notes = {name: torch.cat([part.notes[name] for part in parts]) for name in parts[0].notes}
        pairs = [part.factors for part in parts if part.factors is not None]
        factors = Factors(*map(torch.cat, zip(*pairs, strict=True))) if len(pairs) == len(parts) else None
        return cls(torch.cat([part.x for part in parts]), factors, notes, parts[0].facts)

    def spread(self, rows: Tensor, n: int) -> dict[str, JSON]:
        """Facts, and notes over all n images: flags packed, numbers as a list; images that were left out have none."""
        values: dict[str, JSON] = dict(self.facts)
        for name, note in self.notes.items():
            if note.dtype == torch.bool:
                flags = torch.zeros(n, dtype=torch.bool)
                flags[rows] = note
                values[name] = pack(flags.tolist())
            else:
                numbers = torch.full((n,), torch.nan, dtype=torch.float64)
                numbers[rows] = note.double()
                values[name] = [number if abs(number) < torch.inf else None for number in numbers.tolist()]
        return values


class Attack(Protocol):
    """A batch of images and labels, the cell's seed, and the place of the first image among those attacked."""

    def __call__(self, x: Tensor, y: Tensor, seed: int, place: int) -> Found: ...


@dataclass(frozen=True)
class ModelEntry:
    """A model by name."""

    text: str
    meaning: Any  # options, and hashes of the files behind them
    load: Callable[[torch.device], Subject]


@dataclass(frozen=True)
class DataEntry:
    """Images by name."""

    text: str
    meaning: Any
    n: int
    rows: Callable[[int, int, Subject], Images]


@dataclass(frozen=True)
class AttackEntry:
    """An attack by name."""

    text: str
    meaning: Any
    threat: Threat
    steps: int  # gradients an image it will take, roughly: for the estimate of the time that is left
    packages: tuple[str, ...]
    prepare: Callable[[Subject], Attack]


class Bench:
    """The catalog of one evaluation, and the model that was used last."""

    def __init__(
        self,
        models: Sequence[ModelEntry],
        data: Sequence[DataEntry],
        attacks: Sequence[AttackEntry],
        *,
        device: torch.device,
        batch_size: int,
        keep_images: bool = True,
        channels_last: bool = False,
    ) -> None:
        self.models = {entry.text: entry for entry in models}
        self.data = {entry.text: entry for entry in data}
        self.attacks = {entry.text: entry for entry in attacks}
        self.device, self.batch_size, self.keep_images = device, batch_size, keep_images
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        self._subject: tuple[str, Subject] | None = None
        self._failed: dict[str, tuple[BaseException, TracebackType | None]] = {}
        self._images: tuple[tuple[Any, ...], tuple[Images, str]] | None = None

    def subject(self, name: str) -> Subject:
        """The model; one that failed to load is not loaded a second time."""
        if name not in self._failed and (self._subject is None or self._subject[0] != name):
            self._subject = self._images = None  # before the next one is there: two may not fit into memory
            try:
                found = self.models[name].load(self.device)
                self._subject = name, replace(found, model=found.model.to(memory_format=self.layout))
            except (Exception, SystemExit) as error:
                self._failed[name] = error, error.__traceback__
        if name in self._failed:  # by one way, the first time too, so that every record of it is the same
            reason, traceback = self._failed[name]
            raise reason.with_traceback(traceback)
        assert self._subject is not None
        return self._subject[1]

    def images(self, name: str, start: int, stop: int, subject: Subject) -> tuple[Images, str]:
        """A slice of the images, prepared for this model, and their hash."""
        asked = (name, start, stop, subject.hash)
        if self._images is None or self._images[0] != asked:
            images = self.data[name].rows(start, stop, subject)
            self._images = asked, (images, fingerprint(*images))
        return self._images[1]

    @property
    def device_name(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def versions(self, *packages: str) -> dict[str, str]:
        """Versions of what took part, and a hash of this package's own code."""
        return {**versions_of(*ALWAYS, *sorted(set(packages))), "code": code_hash()}


def weights_hash(model: nn.Module) -> str:
    """A hash of the names, shapes and numbers of a model's state, 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """A hash of a file's bytes, 16 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@cache
def code_hash() -> str:
    """A hash of this package's Python files, 12 hex digits."""
    folder, digest = Path(art_lowrank.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]
