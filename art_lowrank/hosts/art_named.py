"""Any evasion attack of ART by its class name, as a function from images and labels to images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

NORMS = {"L1": 1, "L2": 2, "Linf": np.inf}
Attack = Callable[[Tensor, Tensor], Tensor]


def names() -> list[str]:
    """ART's evasion attacks."""
    return sorted(name for name, item in vars(evasion).items() if _is_attack(item))


def parameters(name: str) -> dict[str, Any]:
    """What the class takes after the estimator, with its defaults."""
    _, _, *rest = inspect.signature(getattr(evasion, name).__init__).parameters.values()
    return {item.name: item.default for item in rest if item.kind != inspect.Parameter.VAR_KEYWORD}


def attack_of(name: str, options: Mapping[str, Any], model: nn.Module) -> Attack:
    """The attack on a torch model whose images lie in [0, 1]."""
    kind, known = getattr(evasion, name), parameters(name)
    quiet = {"verbose": False} if "verbose" in known else {}

    def attacked(x: Tensor, y: Tensor) -> Tensor:
        options_here = {"batch_size": len(x)} if "batch_size" in known else {}
        attack = kind(_classifier(model, x), **{**quiet, **options_here, **options})
        found = attack.generate(x.detach().cpu().numpy(), y.cpu().numpy())
        return torch.from_numpy(np.ascontiguousarray(found)).to(x)

    return attacked


def _classifier(model: nn.Module, x: Tensor) -> PyTorchClassifier:
    with torch.no_grad():
        classes = model.forward(x[:1]).shape[1]  # past the hooks that count: it is no part of the attack
    return PyTorchClassifier(
        Whole(model),
        nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )


class Whole(nn.Module):
    """The model as one piece: ART would call the layers of an nn.Sequential one by one, past the model's own hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.float())  # HopSkipJump makes doubles of images
        return logits


def _is_attack(item: Any) -> bool:
    return inspect.isclass(item) and issubclass(item, EvasionAttack)
