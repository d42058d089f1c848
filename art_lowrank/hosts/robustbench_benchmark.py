"""`robustbench.benchmark`, with what is broken in it mended around the call, and the images it attacks with."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from art_lowrank.hosts.autoattack import AutoAttack
from art_lowrank.hosts.autoattack_members import guarded
from art_lowrank.hosts.robustbench_data import load_cifar10c, load_cifar100c, loaded
from art_lowrank.hosts.robustbench_enable import EvaluationState, part
from art_lowrank.hosts.robustbench_zoo import chosen

Pair = tuple[Tensor, Tensor]
_LOCK = threading.RLock()  # the names in robustbench.eval are one for all threads


def clean_accuracy(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, batch_size: int = 100, device: Any = None
) -> float:
    """The share of images the model gets right, in evaluation mode."""
    if not len(x):
        raise ValueError("there are no images; give at least one")
    with guarded(model):
        return cast(float, part("utils").clean_accuracy(model, x, y, batch_size, device))


def benchmark(
    model: nn.Module,
    n_examples: int = 10000,
    dataset: Any = "cifar10",
    threat_model: Any = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str = "./data",
    corruptions_data_dir: str | None = None,
    device: Any = None,
    batch_size: int = 32,
    eps: float | None = None,
    log_path: str | os.PathLike[str] | None = None,
    preprocessing: str | Callable[[Any], Any] | None = None,
    aa_state_path: str | os.PathLike[str] | None = None,
    *,
    images: Pair | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """The accuracy as it is and under the threat model, as `robustbench.benchmark` computes it.

    `aa_state_path` resumes at the batch; a device of None is the model's; `images` (x, y) stand for the data set.
    """
    if isinstance(model, Sequence) or (isinstance(device, Sequence) and not isinstance(device, str)):
        raise NotImplementedError("robustbench benchmarks one model on one device; call it for each")
    if to_disk and model_name is None:
        raise ValueError("to_disk is True and model_name None; give the name the file shall have")
    given: dict[str, Any] = {"to_disk": to_disk, "model_name": model_name, "data_dir": data_dir}
    given |= {"corruptions_data_dir": corruptions_data_dir, "batch_size": batch_size, "eps": eps}
    given |= {"log_path": log_path, "preprocessing": preprocessing, "aa_state_path": aa_state_path}
    given |= {"n_examples": n_examples, "dataset": dataset, "threat_model": threat_model}
    return _benchmark(model, device, images, seed, [], given)


def attacked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    dataset: Any = "cifar10",
    threat_model: Any = "Linf",
    eps: float,
    batch_size: int = 32,
    seed: int = 0,
) -> Tensor:
    """The adversarial images that `benchmark` computes for these images, clean where it finds none."""
    if chosen(dataset, threat_model)[1].value not in ("Linf", "L2"):
        raise ValueError(f"threat_model is {threat_model!r}; only 'Linf' and 'L2' have adversarial images")
    given = {"dataset": dataset, "threat_model": threat_model, "eps": eps, "batch_size": batch_size}
    found: list[Tensor] = []
    with redirect_stdout(io.StringIO()):
        _benchmark(model, None, (x, y), seed, found, given | {"n_examples": len(x)})
    return found[0]


def _benchmark(
    model: nn.Module, device: Any, images: Pair | None, seed: int, found: list[Tensor], given: dict[str, Any]
) -> tuple[float, float]:
    """Their function with mended parts, and the model's device, modes and flags, and all generators, as before."""
    threat = chosen(given["dataset"], given["threat_model"])[1].value
    if threat in ("Linf", "L2") and given["eps"] is None:
        raise ValueError(f"eps is None; give the radius of the {threat} ball, such as 8 / 255")
    if images is not None and given.get("preprocessing") is None:
        given["preprocessing"] = _as_is  # ImageNet asks for one, and none is used
    model = model if isinstance(model, nn.Module) else _Called(model)
    home = next((p.device for p in model.parameters()), torch.device("cpu") if images is None else images[0].device)
    theirs = part("eval")
    parts = {
        "AutoAttack": partial(_Kept, found, seed=seed),
        "EvaluationState": EvaluationState,
        "load_clean_dataset": partial(_clean, images),
        "clean_accuracy": clean_accuracy,
        "corruptions_evaluation": corruptions_evaluation,
    }
    try:
        with guarded(model), _LOCK, _replaced(theirs, parts):
            return cast(tuple[float, float], theirs.benchmark(model, device=torch.device(device or home), **given))
    finally:
        model.to(home)


class _Kept(AutoAttack):
    """AutoAttack that keeps what it finds."""

    def __init__(self, found: list[Tensor], model: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__(model, **options)
        self.found = found

    def run_standard_evaluation(self, *args: Any, **options: Any) -> Any:
        """As before."""
        images = super().run_standard_evaluation(*args, **options)
        self.found.append(cast(Tensor, images))
        return images


class _Called(nn.Module):
    """A function as the module that robustbench asks for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Its answer."""
        return self.function(x)


def _as_is(image: Any) -> Any:
    return image


def _clean(images: Pair | None, dataset: Any, n_examples: int | None, data_dir: str, prepr: Any) -> Pair:
    if images is None:
        return loaded(dataset.value, n_examples, data_dir, prepr)
    return images[0][:n_examples], images[1][:n_examples]


@contextmanager
def _replaced(module: Any, names: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


def corruptions_evaluation(
    batch_size: int,
    data_dir: str,
    dataset: Any,
    threat_model: Any,
    device: torch.device,
    model: nn.Module,
    n_examples: int,
    to_disk: bool,
    prepr: Any,
    model_name: str | None,
) -> tuple[float, float]:
    """The mean accuracy over corruptions and severities, and the mean error against AlexNet's, NaN without its row."""
    data = part("data")
    mended = {"cifar10": load_cifar10c, "cifar100": load_cifar100c}
    load = mended.get(dataset.value) or data.CORRUPTION_DATASET_LOADERS[dataset][threat_model]
    found: dict[tuple[str, int], float] = {}
    for corruption in data.CORRUPTIONS_DICT[dataset][threat_model]:
        for severity in range(1, 6):
            x, y = load(n_examples, severity, data_dir, shuffle=False, corruptions=[corruption], prepr=prepr)
            found[corruption, severity] = clean_accuracy(model, x, y, batch_size, device)
            print(f"corruption={corruption}, severity={severity}: {found[corruption, severity]:.2%} accuracy")
    kind = "unaggregated_results_3d.csv" if threat_model.value.endswith("_3d") else "unaggregated_results.csv"
    table = _table(Path("model_info") / dataset.value / "corruptions" / kind, found, model_name, to_disk)
    return sum(found.values()) / len(found), _mean_error(table, found)


def _table(path: Path, found: dict[tuple[str, int], float], model_name: str | None, to_disk: bool) -> Any:
    """All models' results, on disk and now; a model's newer row takes the place of its older one."""
    pandas = part("eval").pd
    table = pandas.DataFrame(found, index=[model_name])
    if path.exists():
        known = pandas.read_csv(path, header=[0, 1], index_col=0)
        known.columns = pandas.MultiIndex.from_tuples([(name, int(severity)) for name, severity in known.columns])
        table = pandas.concat([known.drop(index=model_name, errors="ignore"), table])
    if to_disk:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path)
    return table


def _mean_error(table: Any, found: dict[tuple[str, int], float]) -> float:
    if "AlexNet" not in table.index:
        return float("nan")
    errors = {name: [(1 - found[name, s], 1 - table.loc["AlexNet"][name][s]) for s in range(1, 6)] for name, _ in found}
    shares = [sum(ours for ours, _ in each) / sum(theirs for _, theirs in each) for each in errors.values()]
    return float(sum(shares) / len(shares))
