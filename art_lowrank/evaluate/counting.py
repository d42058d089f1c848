"""What an attack costs a model: forwards and gradients counted in images, time and peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Cost:
    """Filled in while a `counted` block runs."""

    forwards: int = 0  # images that went forward through the model
    gradients: int = 0  # images among them whose gradient was taken, once for every time it was
    seconds: float = 0.0
    peak_bytes: int | None = None  # of the device; on a CPU of the process, where the system tells

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What a block that fails has sent through the model is not counted: it is done again, in smaller pieces."""
        before = self.forwards, self.gradients
        try:
            yield
        except BaseException:
            self.forwards, self.gradients = before
            raise


@contextmanager
def counted(model: nn.Module, device: torch.device) -> Iterator[Cost]:
    """Count what goes through the model in the block, whoever sends it."""
    cost = Cost()

    def forward(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        n = len(output) if isinstance(output, Tensor) and output.ndim else 0
        cost.forwards += n
        if n and output.requires_grad:
            output.register_hook(lambda _: backward(n))

    def backward(n: int) -> None:
        cost.gradients += n

    hook = model.register_forward_hook(forward)
    _reset_peak(device)
    started = time.perf_counter()
    try:
        yield cost
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        hook.remove()
        cost.seconds = time.perf_counter() - started
        cost.peak_bytes = _peak(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return None
