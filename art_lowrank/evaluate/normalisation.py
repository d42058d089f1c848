"""Is a model fed what it was trained on? Its clean accuracy, what it makes of scaled images, and what would mend it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from art_lowrank.evaluate.batches import Size
from art_lowrank.evaluate.catalog.normalised import Normalised
from art_lowrank.evaluate.checks import check_classes, check_finite, logits_of
from art_lowrank.evaluate.spec import Spec
from art_lowrank.statistics import Interval, wilson

FAR = 0.05  # below the card by more than this, interval included, is not chance
HARDLY = 0.05  # logits of images of half the brightness differ by less than this share: sound nets have 0.3 to 0.7
CONSTANTS: dict[str, tuple[list[float], list[float]]] = {
    "CIFAR-10's": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "ImageNet's": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "one half's": ([0.5], [0.5]),
}


class Change(NamedTuple):
    """Another input, as options of a model's name in the place of those it may have."""

    words: str
    options: str
    model: nn.Module


class Input(NamedTuple):
    """What was found out about a model's input."""

    clean: Interval
    expected: float | None
    reaction: float  # how far halving the brightness moves the logits, in units of their spread over classes
    better: tuple[Change, Interval] | None  # a change with which accuracy is clearly higher

    def complaints(self, base: Spec) -> Iterator[str]:
        """What is wrong, a line each; none if nothing is. `base` is the model without any options of its input."""
        if self.expected is not None and self.clean.high < self.expected - FAR:
            yield f"clean accuracy {self.clean.percent()} is far below the {100 * self.expected:.2f} % it should have"
        if self.reaction < HARDLY:
            yield (
                f"logits hardly react: images of half the brightness move them by {self.reaction:.1%} of their spread, "
                "as if the model wanted another range of pixels"
            )
        if self.better is not None:
            change, accuracy = self.better
            parts = (*base.parts, *([change.options] if change.options else []))
            yield f"with {change.words} clean accuracy is {accuracy.percent()}: write {Spec(base.name, parts=parts)}"


def input_of(
    model: nn.Module, bare: nn.Module, x: Tensor, y: Tensor, device: torch.device, expected: float | None = None
) -> Input:
    """Ask the model, in evaluation mode, as it is, and the bare one with every usual change of its input."""
    size = Size(64)
    logits, _ = logits_of(model, x, device, size)
    check_classes(logits, y)
    check_finite(logits)
    darker, _ = logits_of(model, x / 2, device, size)
    spread = (logits - logits.mean(1, keepdim=True)).norm(dim=1).mean().clamp_min(1e-30)
    reaction = float((logits - darker).norm(dim=1).mean() / spread)
    clean = _accuracy(logits, y)
    tried = [(change, _accuracy(logits_of(change.model, x, device, size)[0], y)) for change in changes(bare, x, device)]
    top = max(accuracy.low for _, accuracy in tried)
    best = next(pair for pair in tried if pair[1].value >= top)  # the simplest of those that are as good
    return Input(clean, expected, reaction, best if best[1].low > clean.high else None)


def changes(model: nn.Module, x: Tensor, device: torch.device) -> Iterator[Change]:
    """Nothing at all, pixels up to 255, normalisation that is missing, normalisation that the model does twice."""
    yield Change("its input left as it is", "", model)
    yield Change("pixels up to 255", "scale=255", Normalised(model, scale=255).to(device))
    for name, (mean, std) in CONSTANTS.items():
        if len(mean) not in (1, x.shape[1]):
            continue
        options = f"mean={_typed(mean)},std={_typed(std)}"
        yield Change(f"{name} normalisation", options, Normalised(model, mean, std).to(device))
        undone = [-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std]
        options = f"mean={_typed(undone[0])},std={_typed(undone[1])}"
        yield Change(
            f"{name} normalisation undone once, as if it were applied twice,",
            options,
            Normalised(model, *undone).to(device),
        )


def _accuracy(logits: Tensor, y: Tensor) -> Interval:
    return wilson(int((logits.argmax(1) == y).sum()), len(y))


def _typed(numbers: list[float]) -> str:
    text = ",".join(f"{number:.4g}" for number in numbers)
    return text if len(numbers) == 1 else f"[{text}]"
