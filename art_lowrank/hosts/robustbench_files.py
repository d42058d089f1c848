"""Files of weights and data: downloaded aside, looked at, and only then put where robustbench finds them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch


def placed(
    path: Path, download: Callable[[Path], object], remedy: str, check: Callable[[Path, Path], object] | None = None
) -> Path:
    """The file, downloaded where it is missing; where that fails nothing is left and the error says the remedy."""
    if path.is_file():
        return path
    home = next(folder for folder in path.absolute().parents if folder.is_dir())
    with TemporaryDirectory(dir=home, prefix=".robustbench-") as aside:
        fresh = Path(aside) / path.name
        try:
            download(fresh)
        except Exception as error:  # gdown, requests and urllib have their own kinds
            why = f"{type(error).__name__}: {one_line(error)}"
            raise OSError(f"{path} is not there and cannot be downloaded ({why}); {remedy}") from error
        if not fresh.is_file():
            raise OSError(f"{path} is not there and the download gave no file; {remedy}")
        if check is not None:
            check(fresh, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.replace(path)
    return path


def from_url(url: str) -> Callable[[Path], object]:
    """A download of this address."""
    return lambda path: torch.hub.download_url_to_file(url, os.fspath(path), progress=False)


def hub_path(url: str) -> Path:
    """Where torch.hub, and through it torchvision and timm, keep the file of this address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def weights(path: Path, called: Path | None = None) -> Any:
    """What the file holds, tensors only: a web page, a damaged file or a pickle with code is an error of one line."""
    called = called or path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages of old files
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {called}; give the path of a checkpoint") from None
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, whatever a damaged pickle stumbles over
        raise ValueError(_fault(path, called, str(error))) from None


def _fault(path: Path, called: Path, error: str) -> str:
    if path.is_dir():
        return f"{called} is a folder; give the path of a checkpoint"
    with path.open("rb") as file:
        start = file.read(256).lstrip()[:1]
    if start == b"<":
        return f"{called} is a web page, not weights (Google Drive's quota page?); remove it and download it again"
    code = re.search(r"GLOBAL ([\w.]+)", error)
    if code:
        return f"{called} holds code beside tensors ({code[1]}) and is not loaded; save a plain state_dict instead"
    error = error.partition("WeightsUnpickler error:")[2].partition("Check the documentation")[0] or error
    return f"{called} is damaged or not of torch.save ({one_line(error)}); remove it and download it again"


def one_line(error: object, longest: int = 200) -> str:
    """What an exception says, in one line and not too long."""
    said = " ".join(str(error).split())
    return said if len(said) <= longest else said[: longest - 3] + "..."
