"""What a model must give to be evaluated, and first doubts about what it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from art_lowrank.attack.losses import margin
from art_lowrank.evaluate.batches import Size, batched

LOOK = 16  # images that are asked twice, and for a gradient


def logits_of(model: nn.Module, x: Tensor, device: torch.device, size: Size) -> tuple[Tensor, Size]:
    """The model's outputs on images, on the CPU in float32; other than (n, classes) is an error."""

    def part(start: int, stop: int) -> Tensor:
        with torch.no_grad():
            return _checked(model(x[start:stop].to(device, copy=True)), stop - start)  # it may write into its input

    parts, size = batched(part, len(x), size)
    return torch.cat(parts) if parts else torch.zeros(0, 2), size


def _checked(outputs: object, n: int) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != n or outputs.shape[1] < 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"the model returns {found} for {n} images; it must return logits ({n}, classes)")
    return outputs.float().cpu()


def check_finite(logits: Tensor) -> None:
    """NaN and infinity on clean images say that a model is broken, not that it is robust."""
    bad = (~torch.isfinite(logits)).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"the model returns NaN or infinity on {len(bad)} of {len(logits)} clean images (first: {bad[0]}); "
            "check its weights and the range of its inputs"
        )


def check_classes(logits: Tensor, y: Tensor) -> None:
    """Labels the model knows."""
    if len(y) and int(y.max()) >= logits.shape[1]:
        raise ValueError(f"label {int(y.max())} is out of range: the model has {logits.shape[1]} classes")


def doubts(logits: Tensor, again: Callable[[int], Tensor]) -> list[str]:
    """Words for what makes robust accuracy doubtful, seen on clean images; `again` asks for the first n once more."""
    found = []
    sums = logits.sum(1)
    if len(logits) and bool(((sums - 1).abs() < 1e-4).all() & (logits >= 0).all()):
        found.append("probabilities")
    look = min(LOOK, len(logits))
    if look and not torch.allclose(again(look), logits[:look], rtol=1e-4, atol=1e-4):
        found.append("randomised")
    if len(logits) > 1 and bool((logits == logits[:1]).all()):
        found.append("constant")
    return found


class _Differentiations(TorchFunctionMode):
    """Counts the times that somebody differentiates."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        return func(*args, **(kwargs or {}))


def dynamic(model: nn.Module, x: Tensor, device: torch.device, size: Size) -> bool:
    """Whether the model differentiates while it answers, as defences do that optimise for every image."""
    with _Differentiations() as seen, torch.no_grad():
        model(x[: min(LOOK, size.images)].to(device, copy=True))
    return bool(seen.count)


def zero_gradients(
    model: nn.Module, x: Tensor, y: Tensor, logits: Tensor, device: torch.device, size: Size
) -> tuple[int, int]:
    """Images whose margin has no gradient, of so many that were looked at: there attacks by gradients prove nothing."""
    rows = (logits.argmax(1) == y).nonzero().flatten()[:LOOK]

    def part(start: int, stop: int) -> Tensor:
        some = rows[start:stop]
        with torch.enable_grad():
            images = x[some].to(device, copy=True).requires_grad_()
            reached = margin(model(images * 1.0), y[some].to(device))
            found = torch.autograd.grad(reached.sum(), images, allow_unused=True)[0] if reached.requires_grad else None
        if found is None:
            return torch.zeros(len(some))
        return found.flatten(1).abs().amax(1).nan_to_num(0.0, 0.0).cpu()

    parts, _ = batched(part, len(rows), size)
    dead = int((torch.cat(parts) == 0).sum()) if parts else 0
    return dead, len(rows)
