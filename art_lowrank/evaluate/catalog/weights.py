"""Checkpoints: tensors out of a safetensors or .pt file, into a model of the caller's."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_lowrank.training.checkpoint import load_weights, read_weights, reason
from art_lowrank.weights import factorize, ranks_of

NESTS = ("state_dict", "model_state_dict", "model", "net")  # where training scripts put weights in a checkpoint


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint. Pickles that hold more than tensors and plain values are refused, not run."""
    if str(path).endswith(".safetensors"):
        return _stripped(read_weights(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the format's readers raise a dozen kinds, all for the same reason
        foreign = isinstance(error, pickle.UnpicklingError)
        why = "it is damaged, or holds more than tensors and plain values" if foreign else reason(error)
        raise ValueError(
            f"{path} cannot be read as weights ({why}); save the model's state_dict with safetensors"
        ) from error
    for nest in NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no state_dict; save one with torch.save(model.state_dict(), path)")
    return _stripped({str(key): value for key, value in found.items() if isinstance(value, Tensor)})


def with_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """The model with these weights; its layers become low-rank where the weights are."""
    if (ranks := ranks_of(state)) and not ranks_of(model):
        try:
            model = factorize(model, ranks=ranks)
        except ValueError as error:
            raise ValueError(f"{source} holds low-rank weights of another architecture: {error}") from error
    load_weights(model, state, source)
    return model


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that DataParallel puts before every name."""
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state
