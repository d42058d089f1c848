"""The worst case over members of AutoAttack, in batches, resumable at every one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from art_lowrank.hosts import autoattack_state as states
from art_lowrank.hosts.autoattack_members import (
    VERSIONS,
    check_call,
    check_classes,
    check_names,
    count_classes,
    guarded,
    package,
    perturbed,
)

Model = Callable[[Tensor], Tensor]


def standard(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    version: str = "standard",
    members: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 128,
    state: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    report: Callable[[str], None] | None = None,
) -> Tensor:
    """The worst case over the members, each on what survives: adversarial images, clean where none is found.

    Every batch starts from `seed`, as in AutoAttack. With `state`, progress is on disk after every batch, and a second
    call goes on from there and returns all images. Batches are moved to `device` (None: where the images are).
    """
    names = VERSIONS.get(version, ()) if members is None else tuple(members)
    check_names(version, names)
    check_call(x, y, norm, eps)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number from 1 on")
    if not len(x):
        return x.clone()
    run = _Run(model, x, y.to(x.device), names, norm, eps, version, seed, batch_size, state, device, report)
    with guarded(model), torch.no_grad():
        return run.images()


class _Run:
    """The settings of one worst-case run, and its loop."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        names: tuple[str, ...],
        norm: str,
        eps: float,
        version: str,
        seed: int,
        batch_size: int,
        state: str | os.PathLike[str] | None,
        device: str | torch.device | None,
        report: Callable[[str], None] | None,
    ) -> None:
        self.model, self.x, self.y, self.names, self.batch_size, self.state = model, x, y, names, batch_size, state
        self.device = torch.device(x.device if device is None else device)
        self.report = report or (lambda line: None)
        self.options: dict[str, Any] = {"norm": norm, "eps": float(eps), "seed": seed, "version": version}
        self.settings: dict[str, Any] = {}

    def images(self) -> Tensor:
        """All of them, from a state where there is one."""
        self.options["classes"] = count_classes(self.model, self.x[:1].to(self.device), self.y)
        for name in self.names:
            check_classes(name, self.options["classes"])  # before hours are spent on the members before it
        progress = self._started()
        self.report(f"initial accuracy: {share(progress.clean)}")
        start = time.time()
        for name in self.names[progress.member :]:
            self._run(name, progress)
            spent = time.time() - start
            self.report(f"robust accuracy after {name.upper()}: {share(progress.holds)} (total time {spent:.1f} s)")
        return progress.images

    def _started(self) -> states.Progress:
        if self.state is not None:
            self.settings = {**self.options, "members": list(self.names), "batch_size": self.batch_size}
            self.settings |= {"package": package(), **states.digests(self.model, self.x, self.y)}
        if self.state is not None and states.exists(self.state):
            self.report(f"restored state from {self.state}")
            return states.read(self.state, self.settings, self.x)
        if self.state is not None and not Path(self.state).absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder of the state {self.state} is not there; make it first")
        progress = states.Progress.fresh(self._right(), self.x)
        self._keep(progress)
        return progress

    def _keep(self, progress: states.Progress) -> None:
        if self.state is not None:
            states.write(self.state, progress, self.settings)

    def _run(self, name: str, progress: states.Progress) -> None:
        """One member on what held when it began; a resumed run makes the same batches and skips those done."""
        for rows in progress.begun.nonzero()[:, 0].split(self.batch_size)[progress.batch :]:
            if len(rows):  # split of nothing gives one empty piece
                x, y = self.x[rows].to(self.device), self.y[rows].to(self.device)
                images = perturbed(self.model, x, y, name, **self.options)
                broken = self.model(images).argmax(1) != y
                progress.found(rows[broken.to(rows.device)], images[broken].to(self.x.device))
            progress.batch += 1
            self._keep(progress)
        progress.next_member()

    def _right(self) -> Tensor:
        return predictions(self.model, self.x, self.batch_size, self.device) == self.y


def predictions(model: Model, x: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """(n,) the likeliest classes, on the images' device."""
    return torch.cat([model(images.to(device)).argmax(1).to(x.device) for images in x.split(batch_size)])


def share(flags: Tensor) -> str:
    """The share of them, in percent."""
    return f"{flags.double().mean():.2%}"
