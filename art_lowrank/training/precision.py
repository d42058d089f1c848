"""Mixed precision: the model's forward passes under autocast; losses, attacks' own sums and weights in full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from art_lowrank.attack.precision import DTYPES, SCALE
from art_lowrank.training.adversaries import Logits

PRECISIONS = ("float32", *DTYPES)
LEAST = 2.0**-10  # of the loss's scale: gradients that are not finite even then never will be


@dataclass(frozen=True)
class Lowered:
    """A model under autocast; its outputs come back in float32, so everything around it is exact.

    `lift` is for attacks: what they multiply a loss with while its gradient is taken.
    """

    logits: Logits
    dtype: torch.dtype

    @property
    def lift(self) -> float:
        """1, but for float16, whose smallest number is 6e-8."""
        return SCALE if self.dtype == torch.float16 else 1.0

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            found = self.logits(x)
        return found.float() if isinstance(found, Tensor) and found.dtype == self.dtype else found


@dataclass(frozen=True)
class Precision:
    """How a step is computed: by which model, and with which scale of the loss (float16 only)."""

    dtype: torch.dtype | None = None
    scaler: Any = None

    def of(self, logits: Logits) -> Logits:
        """The model as a step sees it."""
        return logits if self.dtype is None else Lowered(logits, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients, perhaps scaled until the step."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def idle(self, device: torch.device) -> None:
        """No images for this process: the scale is made ready all the same, as it is elsewhere."""
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=device))

    def step(self, optimizer: Optimizer) -> None:
        """One step; none where a scaled gradient overflowed, and then no method that hangs on steps acts either."""
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.unscale_(optimizer)
        if _finite(parameter.grad for group in optimizer.param_groups for parameter in group["params"]):
            optimizer.step()
        self.scaler.update()

    @property
    def lost(self) -> bool:
        """Whether gradients overflow whatever the scale."""
        return self.scaler is not None and self.scaler.get_scale() < LEAST

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


FULL = Precision()


def precision_of(name: str, device: torch.device | str) -> Precision:
    """`float32`, `bf16` or `fp16` on a device."""
    check_precision(name)
    kind = torch.device(device).type
    make = partial(torch.amp.GradScaler, kind)
    return FULL if name == "float32" else Precision(DTYPES[name], make() if name == "fp16" else None)


def check_precision(name: str) -> None:
    """One of the names."""
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; give one of {', '.join(PRECISIONS)}")


def _finite(gradients: Iterable[Tensor | None]) -> bool:
    sums = [gradient.abs().max() for gradient in gradients if gradient is not None and gradient.numel()]
    return not sums or bool(torch.isfinite(torch.stack(sums)).all())
