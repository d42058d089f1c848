"""`import robustbench` on an installation of 1.1.1 as it comes from the registry."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor

from art_lowrank.hosts import autoattack_state as states
from art_lowrank.hosts.autoattack import AutoAttack
from art_lowrank.hosts.autoattack_members import INSTALL

TIMM = "1.0.9"  # robustbench 1.1.1 pins it, and imports names that later ones lack
_LOCK = threading.RLock()


class EvaluationState:
    """What robustbench asks of AutoAttack's state: the flags, as numbers because it takes their mean."""

    def __init__(self, robust_flags: Tensor) -> None:
        self.robust_flags = robust_flags

    @classmethod
    def from_disk(cls, path: str | os.PathLike[str]) -> EvaluationState:
        """The state that a run has written."""
        return cls(states.flags(path).float())


def enable() -> None:
    """Make `import robustbench` work: what its wheel misses is stood in for while it is imported, and only then.

    A module `autoattack` that is there is never replaced, and `import autoattack` fails afterwards where it did before.
    """
    with _LOCK:
        if hasattr(sys.modules.get("robustbench"), "benchmark"):
            return
        if not _installed("robustbench") or _is_stray():
            raise ImportError(f"robustbench is not installed; install it with: {INSTALL}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pkg_resources and of old timm names, at import
                with _standing_in():
                    import_module("robustbench")
        except Exception as error:  # a newer timm fails in more than one way
            raise ImportError(_reason(error)) from error


def part(name: str) -> Any:
    """The module `robustbench.<name>`, once it can be imported."""
    enable()
    return import_module(f"robustbench.{name}")


@contextmanager
def _standing_in() -> Iterator[None]:
    """What cannot be imported is in `sys.modules` for the time of the block."""
    lacking = _lacking()
    before = {name: sys.modules[name] for name in lacking if name in sys.modules}
    sys.modules.update(lacking)
    try:
        yield
    finally:
        for name in lacking:
            del sys.modules[name]
        sys.modules.update(before)


def _lacking() -> dict[str, ModuleType]:
    offers: dict[str, dict[str, Any]] = {
        "pkg_resources": {"resource_filename": _resource_filename},
        "autoattack": {"AutoAttack": AutoAttack},
        "autoattack.state": {"EvaluationState": EvaluationState},
    }
    return {name: _module(name, offer) for name, offer in offers.items() if not _imports(name)}


def _module(name: str, content: dict[str, Any]) -> ModuleType:
    module = ModuleType(name, "Stands in while robustbench is imported.")
    vars(module).update(content)
    return module


def _imports(name: str) -> bool:
    try:
        import_module(name)
    except Exception:  # broken is as good as missing
        return False
    return True


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # None in sys.modules forbids the import
        return False


def _is_stray() -> bool:
    """The wheel of torchattacks 3.5.1 holds an old robustbench without what that needs."""
    try:
        metadata.version("robustbench")
    except metadata.PackageNotFoundError:
        return metadata.packages_distributions().get("robustbench") == ["torchattacks"]
    return False


def _resource_filename(module: str, resource: str) -> str:
    """The one function of pkg_resources that robustbench calls; it names a module, not its package."""
    spec = sys.modules[module].__spec__
    package = module if spec is None or spec.submodule_search_locations is not None else spec.parent
    return str(files(package or module).joinpath(resource))


def _reason(error: Exception) -> str:
    said = str(error).partition("\n")[0]
    try:
        timm = metadata.version("timm")
    except metadata.PackageNotFoundError:
        return f"robustbench needs timm {TIMM}, which is not installed; install it with: pip install timm=={TIMM}"
    if timm != TIMM:
        return (
            f"robustbench does not import with timm {timm} ({said}); install the one it needs: pip install timm=={TIMM}"
        )
    return f"robustbench does not import ({said}); install it whole with: {INSTALL}"
