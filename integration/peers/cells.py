"""Runs one cell of the comparison: a net, an attack, a radius, a seed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from attacks import Contender
from facts import SOURCE, source
from outcome import Outcome, judge
from torch import Tensor, nn

from art_lowrank import record
from art_lowrank.record import Record

BATCH = 250
PACKAGES = ("torch", "adversarial-robustness-toolbox", "torchattacks", "foolbox", "adv-lib", "pyautoattack")
DIGEST = source()  # now: the files may change while cells run


@dataclass(frozen=True)
class Cell:
    model: str
    contender: Contender
    eps: float
    seed: int
    split: str
    n: int

    @property
    def asked(self) -> Record:
        """The record without results: its id is known before anything is run."""
        return Record(
            kind="strength",
            model=self.model,
            data=f"cifar10-{self.split}[:{self.n}]",
            attack=self.contender.attack,
            seed=self.seed if self.contender.random else None,
            n=self.n,
            settings={"eps": self.eps, "norm": 2, **self.contender.settings},
            values={},
        )


def measured(cell: Cell, model: nn.Module, x: Tensor, y: Tensor) -> Record:
    """The record with results: per-image outcomes, and what the cell cost."""
    started = time.process_time()
    found = attacked(model, x, y, cell.contender, cell.eps, cell.seed)
    seconds = time.process_time() - started
    broken = [bool(flag) for flag in found.broken]
    return replace(
        cell.asked,
        values={
            "broken": record.pack(broken),
            "broken_count": sum(broken),
            "robust_accuracy": 1 - sum(broken) / cell.n,
            "max_distance": found.distance,
            "gradients_per_image": cell.contender.gradients,
        },
        volatile={"process_seconds": seconds, "threads": torch.get_num_threads()},
        versions={**record.versions(*PACKAGES), SOURCE: DIGEST},
    )


def attacked(model: nn.Module, x: Tensor, y: Tensor, contender: Contender, eps: float, seed: int) -> Outcome:
    """The outcome over all images, batch by batch; every batch starts from the same seed."""
    parts = []
    for images, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        images = images.contiguous()  # some peers call view
        parts.append(judge(model, images, labels, contender(model, images.clone(), labels.clone(), eps, seed), eps))
    return Outcome(torch.cat([part.broken for part in parts]), max(part.distance for part in parts))
