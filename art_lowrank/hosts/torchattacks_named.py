"""Any attack of torchattacks by its class name, as a function from images and labels to images."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

try:
    import torchattacks
    from torchattacks.attack import Attack as Base
except ImportError as error:
    raise ImportError(
        "torchattacks is not installed; install it with: pip install 'art-lowrank[torchattacks]'"
    ) from error

Attack = Callable[[Tensor, Tensor], Tensor]


def names() -> list[str]:
    """The attacks of torchattacks."""
    return sorted(name for name, item in vars(torchattacks).items() if _is_attack(item))


def parameters(name: str) -> dict[str, Any]:
    """What the class takes after the model, with its defaults."""
    _, _, *rest = inspect.signature(getattr(torchattacks, name).__init__).parameters.values()
    return {item.name: item.default for item in rest if item.kind != inspect.Parameter.VAR_KEYWORD}


def norms(name: str) -> list[str]:
    """The distances the class says it measures."""
    found = re.search(r"Distance Measure *: *([^\n]*)", inspect.getdoc(getattr(torchattacks, name)) or "")
    return [norm for norm in ("L1", "L2", "Linf") if found and norm.lower() in found[1].lower().replace("_", "")]


def attack_of(name: str, options: Mapping[str, Any], model: nn.Module) -> Attack:
    """The attack on a model whose images lie in [0, 1]."""
    kind = getattr(torchattacks, name)

    def attacked(x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = kind(model, **options)(x.contiguous(), y)
        return found

    return attacked


def _is_attack(item: Any) -> bool:
    return inspect.isclass(item) and issubclass(item, Base) and item.__module__ != "torchattacks.attack"
