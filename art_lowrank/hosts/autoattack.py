"""AutoAttack on whichever package is installed: resumable, quiet, and with everything of the caller's left alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from art_lowrank.hosts.autoattack_members import MEMBERS, VERSIONS, backend, check_names, guarded, member, package
from art_lowrank.hosts.autoattack_run import Model, predictions, share, standard

__all__ = ["MEMBERS", "VERSIONS", "AutoAttack", "backend", "member", "package", "standard"]


class AutoAttack:
    """The class of the original package, argument for argument, on whichever package is installed.

    A `seed` of None is 0, so that two runs agree and a state can be resumed. The default device "cuda" is that of the
    images on a machine without CUDA. `version="custom"` runs `attacks_to_run` with the settings of "plus".
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device = "cuda",
        log_path: str | os.PathLike[str] | None = None,
    ) -> None:
        if is_tf_model:
            raise ValueError("is_tf_model is True; only PyTorch models are attacked here, wrap the model in a function")
        if version != "custom":
            check_names(version, ())
            if len(attacks_to_run):
                raise ValueError(
                    f"attacks_to_run is {list(attacks_to_run)}; it needs version='custom', not {version!r}"
                )
        self.model, self.norm, self.epsilon, self.seed, self.verbose = model, norm, eps, seed, verbose
        self.attacks_to_run = list(attacks_to_run) if version == "custom" else list(VERSIONS[version])
        self.version, self.device, self.log_path = version, torch.device(device), log_path

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | os.PathLike[str] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The worst case over `attacks_to_run`; a state is resumed at its batch and gives all adversarial images."""
        self._log(f"using {self.version} version including {', '.join(self.attacks_to_run)}.")
        images = self._attacked(x_orig, y_orig, self.attacks_to_run, bs, state_path, self._log)
        answers = self._answers(images, bs)
        delta = (images - x_orig).double().flatten(1)
        size = torch.linalg.vector_norm(delta, float(self.norm.removeprefix("L")), dim=1).max() if len(delta) else 0.0
        self._log(f"max {self.norm} perturbation: {size:.5f}, nan in tensor: {int(images.isnan().sum())}")
        self._log(f"robust accuracy: {share(answers == y_orig.to(answers.device))}")
        return (images, answers) if return_labels else images

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """Every attack alone on all images."""
        found: dict[str, Any] = {}
        for name in self.attacks_to_run:
            start = time.time()
            images = self._attacked(x_orig, y_orig, [name], bs, None, None)
            answers = self._answers(images, bs)
            found[name] = (images, answers) if return_labels else images
            robust, spent = share(answers == y_orig.to(answers.device)), time.time() - start
            self._log(f"robust accuracy by {name.upper()}: {robust} (time attack: {spent:.1f} s)")
        return found

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """The share of images the model gets right."""
        right = self._answers(x_orig, bs) == y_orig.to(x_orig.device)
        self._log(f"clean accuracy: {share(right)}")
        return float(right.double().mean())

    def _attacked(
        self,
        x: Tensor,
        y: Tensor,
        members: Sequence[str],
        bs: int,
        state: str | os.PathLike[str] | None,
        report: Callable[[str], None] | None,
    ) -> Tensor:
        if not members:
            raise ValueError("attacks_to_run is empty; set it to some of " + ", ".join(MEMBERS))
        return standard(
            self.model,
            x,
            y,
            norm=self.norm,
            eps=self.epsilon,
            version="plus" if self.version == "custom" else self.version,
            members=members,
            seed=0 if self.seed is None else int(self.seed),
            batch_size=bs,
            state=state,
            device=self._device(x),
            report=report,
        )

    def _answers(self, x: Tensor, bs: int) -> Tensor:
        with guarded(self.model), torch.no_grad():
            return predictions(self.model, x, bs, self._device(x))

    def _device(self, x: Tensor) -> torch.device:
        return x.device if self.device.type == "cuda" and not torch.cuda.is_available() else self.device

    def _log(self, line: str) -> None:
        if not self.verbose:
            return
        print(line)
        if self.log_path is not None:
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
