"""How far a run of AutoAttack has come: a file that is whole after every batch, and refused if it is another's."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from art_lowrank.files import write_whole

FORMAT = "art_lowrank autoattack 1"
HASHED = ("images", "labels", "model")


@dataclass
class Progress:
    """What is known after so many batches of so many members."""

    clean: Tensor  # (n,) bool: right before any attack
    holds: Tensor  # (n,) bool: right still
    begun: Tensor  # `holds` when the present member began: its batches are made of these
    images: Tensor  # adversarial where something broke the image, clean elsewhere
    member: int = 0
    batch: int = 0

    @classmethod
    def fresh(cls, clean: Tensor, x: Tensor) -> Progress:
        """Nothing attacked yet."""
        return cls(clean, clean.clone(), clean.clone(), x.detach().clone())

    def found(self, rows: Tensor, images: Tensor) -> None:
        """Images that broke these rows."""
        self.images[rows] = images
        self.holds[rows] = False

    def next_member(self) -> None:
        """The present member is through."""
        self.member, self.batch, self.begun = self.member + 1, 0, self.holds.clone()


def write(path: str | os.PathLike[str], progress: Progress, settings: dict[str, Any]) -> None:
    """Only broken images are kept: the others are the caller's."""
    rows = (progress.clean & ~progress.holds).nonzero()[:, 0]
    tensors = {"clean": progress.clean, "holds": progress.holds, "begun": progress.begun}
    tensors |= {"rows": rows, "images": progress.images[rows]}
    about = {"format": FORMAT, "settings": json.dumps(settings)}
    about |= {"member": str(progress.member), "batch": str(progress.batch)}
    write_whole(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, about))


def read(path: str | os.PathLike[str], settings: dict[str, Any], x: Tensor) -> Progress:
    """The progress of a run with the same settings, images, labels and model; any other is refused."""
    about, tensors = _content(path)
    _check_same(path, json.loads(about["settings"]), settings)
    here = {name: tensor.to(x.device) for name, tensor in tensors.items()}
    images = x.detach().clone()
    images[here["rows"]] = here["images"]
    marks = (here["clean"], here["holds"], here["begun"])
    return Progress(*marks, images, int(about["member"]), int(about["batch"]))


def flags(path: str | os.PathLike[str]) -> Tensor:
    """(n,) bool: what holds after the batches that the file knows of."""
    return _content(path)[1]["holds"]


def _content(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("clean", "holds", "begun", "rows", "images")}
        if about.get("format") != FORMAT or not isinstance(json.loads(about["settings"]), dict):
            raise ValueError(f"format {about.get('format')!r}")
        int(about["member"]), int(about["batch"])
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors raises a type of its own, a damaged header any
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no whole state of an AutoAttack run ({reason}); remove it to start anew") from None
    return about, tensors


def _check_same(path: str | os.PathLike[str], old: dict[str, Any], new: dict[str, Any]) -> None:
    differ = [name for name in new if old.get(name) != new[name]]
    if differ:
        said = (
            "other " + name if name in HASHED else f"{name} = {old.get(name)!r}, not {new[name]!r}" for name in differ
        )
        raise ValueError(
            f"the state {path} was made with {'; '.join(said)}: give the same again, or another path to start anew"
        )


def digests(model: object, x: Tensor, y: Tensor) -> dict[str, str]:
    """What tells whether images, labels and weights are the same as before."""
    weights = model.state_dict() if isinstance(model, nn.Module) else {}
    held = [value for _, value in sorted(weights.items()) if isinstance(value, Tensor)]
    return {"images": _digest([x]), "labels": _digest([y.long()]), "model": _digest(held)}


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def exists(path: str | os.PathLike[str] | None) -> bool:
    """Whether there is a state to go on from."""
    return path is not None and Path(path).exists()
