"""Every attack of the comparison as (model, x, y, eps, seed, settings) -> attacked images: only translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
import torchattacks
from adv_lib.attacks.auto_pgd import apgd
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from foolbox import PyTorchModel
from foolbox.attacks import L2ProjectedGradientDescentAttack
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn

from art_lowrank import lowrank_pgd

Setting: TypeAlias = "int | float | str"
UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Contender:
    """An attack with its settings; `settings` go to the function and into the record as they are."""

    attack: str
    function: Callable[..., Tensor]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    gradients: int = 0  # an image
    random: bool = True  # whether the seed changes the result

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
        return self.function(model, x, y, eps, seed, **self.settings)


def no_attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
    return x


def lowrank(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, *, method: str, rank: int | str, steps: int
) -> Tensor:
    return lowrank_pgd(model, x, y, eps=eps, rank=rank, steps=steps, method=method, seed=seed).x


def torchattacks_pgd(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, *, steps: int, step_over_eps: float
) -> Tensor:
    torch.manual_seed(seed)
    attack = torchattacks.PGDL2(model, eps=eps, alpha=step_over_eps * eps, steps=steps, random_start=True)
    adversarial: Tensor = attack(x, y)
    return adversarial


def art_pgd(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, *, steps: int, step_over_eps: float
) -> Tensor:
    np.random.seed(seed)
    attack = ProjectedGradientDescent(
        estimator(model, x),
        norm=2,
        eps=eps,
        eps_step=step_over_eps * eps,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(x),
        verbose=False,
    )
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def estimator(model: nn.Module, x: Tensor) -> PyTorchClassifier:
    """The model as ART wants it."""
    classes = model(x[:1]).shape[1]
    shape = tuple(x.shape[1:])
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, classes, clip_values=UNIT, device_type="cpu")


def autoattack_apgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, *, steps: int, loss: str) -> Tensor:
    attack = APGDAttack(model, n_iter=steps, norm="L2", eps=eps, loss=loss, n_restarts=1, seed=seed, device="cpu")
    adversarial: Tensor = attack.perturb(x, y)
    return adversarial


def foolbox_pgd(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, *, steps: int, step_over_eps: float
) -> Tensor:
    torch.manual_seed(seed)
    attack = L2ProjectedGradientDescentAttack(rel_stepsize=step_over_eps, steps=steps, random_start=True)
    adversarial: Tensor = attack(PyTorchModel(model, bounds=UNIT, device="cpu"), x, y, epsilons=eps)[1]  # clipped
    return adversarial


def advlib_apgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, *, steps: int, loss: str) -> Tensor:
    torch.manual_seed(seed)
    adversarial: Tensor = apgd(model, x, y, eps, norm=2, n_iter=steps, loss_function=loss)
    return adversarial


def clean() -> Contender:
    return Contender("clean", no_attack, random=False)


def power(rank: int | str, steps: int) -> Contender:
    """Ours."""
    settings: dict[str, Setting] = {"method": "power", "rank": rank, "steps": steps}
    return Contender("lowrank-pgd[power]", lowrank, settings, steps, random=rank != "full")


def paper(rank: int, steps: int) -> Contender:
    """LoRa-PGD as published."""
    return Contender("lora-pgd[paper]", lowrank, {"method": "paper", "rank": rank, "steps": steps}, steps)


def pgd(attack: str, function: Callable[..., Tensor], steps: int, step_over_eps: float) -> Contender:
    return Contender(attack, function, {"steps": steps, "step_over_eps": step_over_eps}, steps)


def auto(attack: str, function: Callable[..., Tensor], loss: str, steps: int) -> Contender:
    """APGD takes one gradient at its random start and one after each of its steps."""
    return Contender(f"{attack}-{loss.upper()}", function, {"loss": loss, "steps": steps}, steps + 1)
