"""A worker of a cluster: it finds a cell's model, images and attack by name, as the driver did, and runs the cell."""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from art_lowrank.evaluate.bench import ALWAYS, Bench, ModelEntry, Subject, code_hash
from art_lowrank.evaluate.calibration import Calibration, calibrate
from art_lowrank.evaluate.catalog.attacks import attack_entry
from art_lowrank.evaluate.catalog.data import data_entry
from art_lowrank.evaluate.catalog.models import model_entry
from art_lowrank.evaluate.cell import Outcome, run_cell
from art_lowrank.evaluate.plan import CLEAN, Cell, Plan
from art_lowrank.evaluate.run import device_of
from art_lowrank.evaluate.spec import parse
from art_lowrank.record import Record, versions
from art_lowrank.training.checkpoint import reason

MAYBE = ("adversarial-robustness-toolbox", "torchattacks", "robustbench", "pyautoattack", "timm", "torchvision")


class About(NamedTuple):
    """Where a worker is and what it runs."""

    host: str
    device: str
    versions: Mapping[str, str]


class Absent(NamedTuple):
    """What a cell needs is not to be had on the worker's machine, or is something else there."""

    kind: str  # "model", "data" or "attack"
    name: str
    host: str
    why: str
    sent: bool = False  # it came from the driver, and could not be opened


class Worker:
    """One process. It holds one model at a time and keeps it for the next cell."""

    def __init__(self, plan: Plan, folder: str, share: float = 1.0) -> None:
        """Start in the driver's folder, where this machine has it; `share` of a GPU's memory is ours."""
        with suppress(OSError):
            os.chdir(folder)
        device = device_of(plan.device)
        if device.type == "cuda" and 0 < share < 1:
            torch.cuda.set_per_process_memory_fraction(share)
        self.plan = plan
        self.bench = Bench(
            *([], [], []),
            device=device,
            batch_size=plan.batch_size,
            keep_images=plan.keep_images,
            channels_last=plan.channels_last,
        )

    def about(self) -> About:
        """What the driver compares with itself."""
        return About(platform.node(), self.bench.device_name, here())

    def run(self, cell: Cell, before: Mapping[str, Record], sent: bytes | None = None) -> Outcome | Absent:
        """The cell's outcome; `sent` is its model, where it cannot be made by its name."""
        for kind in ("attack", "data", "model"):
            absent = self._learn(kind, cell, sent)
            if absent is not None:
                return absent
        return run_cell(cell, self.bench, before)

    def calibrate(self, cells: Sequence[Cell], sent: Mapping[str, bytes] | None = None) -> Calibration | Absent:
        """What cells take here; `sent` are models by name."""
        for cell in cells:
            for kind in ("attack", "data", "model"):
                absent = self._learn(kind, cell, (sent or {}).get(cell.model), keep=True)
                if absent is not None:
                    return absent
        return calibrate(self.bench, cells)

    def _learn(self, kind: str, cell: Cell, sent: bytes | None, keep: bool = False) -> Absent | None:
        """Take in what a name means here; None if that is what the driver means by it."""
        name, known = getattr(cell, kind), self._known(kind)
        if name in known or (kind == "attack" and name == CLEAN):
            return None
        try:
            found = self._entry(kind, name) if kind != "model" or sent is None else unpacked(name, cell, sent)
        except Exception as error:  # whatever a package of this machine does when it is asked
            why = reason(error).partition("; ")[0].removeprefix(f"{name}: ")
            return Absent(kind, name, platform.node(), why, sent is not None)
        if found.meaning != cell.identity[kind]:
            return Absent(kind, name, platform.node(), "its files are not the same")
        if kind == "model" and not keep:
            known.clear()  # only one is held, and it may have come as many bytes
        known[name] = found
        return None

    def _known(self, kind: str) -> dict[str, Any]:
        bench: dict[str, dict[str, Any]] = {
            "attack": self.bench.attacks,
            "data": self.bench.data,
            "model": self.bench.models,
        }
        return bench[kind]

    def _entry(self, kind: str, name: str) -> Any:
        spec, plan = parse(name), self.plan
        if kind == "attack":
            return attack_entry(spec, plan.norm, plan.eps)
        return data_entry(spec, plan.data_dir) if kind == "data" else model_entry(spec, plan.model_dir)


def unpacked(name: str, cell: Cell, sent: bytes) -> ModelEntry:
    """The entry of a model that was sent."""

    def load(device: torch.device) -> Subject:
        subject: Subject = pickle.loads(sent)  # from the driver, whose code we run anyway
        subject.model.to(device)
        return subject

    subject = load(torch.device("cpu"))  # classes that are not to be had here are said now
    del subject
    return ModelEntry(name, cell.identity["model"], load)


def here() -> dict[str, str]:
    """Versions that decide about numbers, without what a build adds to them, and a hash of this package's code."""
    found = {name: version.partition("+")[0] for name, version in versions(*ALWAYS, *MAYBE).items()}
    return {**found, "code": code_hash()}


def differing(about: About) -> str | None:
    """What of a worker's software is not ours."""
    ours = here()
    either = {*ours} ^ {*about.versions}  # what one of the two lacks is missed when it is needed
    for name in sorted({*ours, *about.versions} - ({*MAYBE} & either)):
        there, mine = about.versions.get(name, "none"), ours.get(name, "none")
        if there != mine:
            return f"the worker on {about.host} has {name} {there}, here is {mine}; install the same on every machine"
    return None
