"""A folder with the last state of training, from which it goes on exactly, and the best weights so far."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from art_lowrank.files import write_whole

LAST, BEST = "last.pt", "best.safetensors"
State = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """Where training keeps its state. `asked` is the configuration, plain values: another one is not resumed."""

    path: Path
    asked: Mapping[str, Any]

    def make(self) -> None:
        """Make the folder, before any time is spent."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{self.path} cannot be a folder for checkpoints ({error}); give another") from error

    def load(self) -> State | None:
        """The last state, or None where there is none yet."""
        path = self.path / LAST
        if not path.exists():
            return None
        state = read(path)
        self._same_configuration(state["asked"])
        return state

    def save(self, state: State) -> None:
        """Keep this as the last state."""
        buffer = io.BytesIO()
        torch.save(plain({**state, "asked": self.asked}), buffer)
        self._write(LAST, buffer.getvalue())

    def save_best(self, model: nn.Module, notes: Mapping[str, Any]) -> None:
        """Keep these weights as the best, with what is known of them as the file's metadata."""
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
        self._write(BEST, save(tensors, {"notes": json.dumps({**self.asked, **notes}, default=str)}))

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self.path / name, data)
        except OSError as error:
            raise OSError(
                f"checkpoint {self.path / name} was not written ({error}); the one before it is intact: "
                "make room or give another folder, and run again to go on from it"
            ) from error

    def _same_configuration(self, other: Mapping[str, Any]) -> None:
        asked = plain(self.asked)
        for name in sorted({*asked, *other}):
            if asked.get(name) != other.get(name):
                raise ValueError(
                    f"{self.path} holds training with {name}={other.get(name)!r}, asked is {asked.get(name)!r}; "
                    "give another folder, or resume=False to begin anew in this one (--no-resume)"
                )


def ranks_before(folder: Folder) -> dict[str, int] | None:
    """The ranks of a run that is resumed."""
    before = folder.load()
    return None if before is None else before["ranks"]


def read(path: str | Path) -> State:
    """What `Folder.save` wrote; tensors and plain values only, nothing in the file is executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by others, which are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the format's readers raise a dozen kinds, all for the same reason
        foreign = isinstance(error, pickle.UnpicklingError)  # torch's own words advise to trust the file
        why = "it holds more than tensors and plain values" if foreign else reason(error)
        raise ValueError(f"{path} is damaged or no checkpoint ({why}); delete it to begin anew") from error
    if not isinstance(state, dict) or not {"model", "optimizer", "history", "asked"} <= state.keys():
        raise ValueError(f"{path} is no checkpoint of art_lowrank; delete it to begin anew")
    return state


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """An exception in a few words; its kind too, where the words alone say little."""
    words = " ".join(str(error).split())
    if not words or isinstance(error, LookupError | AssertionError | ArithmeticError | SystemExit):
        words = f"{type(error).__name__}: {words}".rstrip(": ")
    return words if len(words) <= 120 else f"{words[:120]}..."


def plain(value: Any) -> Any:
    """The same with numbers of numpy, which weights_only refuses, as Python's own."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    return value.item() if isinstance(value, np.generic) else value


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Put weights into a model of the same architecture; ranks may differ."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[1:2])
        raise ValueError(f"{source} holds weights of another architecture: {first}") from error
