"""Cost of the update: all process time of the attack outside the model's forward and backward pass.

Against real nets the ratio is outside / inside; against the published update, without a net, ours / published.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from assets import cifar10, net
from facts import RESNET, SQUEEZENET, told
from published import lora_pgd
from squeezenet import imagenet, squeezenet
from timing import interleaved, ratio_record, seconds
from torch import Tensor, nn

from art_lowrank import lowrank_pgd
from art_lowrank.attack.losses import Loss
from art_lowrank.attack.lowrank import run
from art_lowrank.attack.options import Options
from art_lowrank.attack.oracle import Judged
from art_lowrank.record import JSON, Record, append

EPS = 0.5
SHAPES = ((128, 3, 32, 32), (16, 3, 224, 224))


class Spent(NamedTuple):
    inside: float
    outside: float


class Clocked(nn.Module):
    """A net that adds up the process time of its forward passes, and of torch's backward passes while `listening`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.inside, self.backwards = 0.0, 0

    def forward(self, x: Tensor) -> Tensor:
        started = time.process_time()
        logits: Tensor = self.model(x)
        self.inside += time.process_time() - started
        return logits

    @contextmanager
    def listening(self) -> Iterator[None]:
        original = torch.autograd.grad

        def grad(*given: Any, **named: Any) -> tuple[Tensor, ...]:
            started = time.process_time()
            found: tuple[Tensor, ...] = original(*given, **named)
            self.inside += time.process_time() - started
            self.backwards += 1
            return found

        with mock.patch.object(torch.autograd, "grad", grad):
            yield


def spent(model: nn.Module, x: Tensor, y: Tensor, rank: int | float, steps: int) -> Callable[[], Spent]:
    def attack() -> Spent:
        clocked = Clocked(model)
        with clocked.listening():
            total = seconds(lambda: lowrank_pgd(clocked, x, y, eps=EPS, rank=rank, steps=steps))()
        if clocked.backwards != steps:
            raise RuntimeError(f"{clocked.backwards} backward passes were seen, not {steps}: they take another way now")
        return Spent(clocked.inside, total - clocked.inside)

    return attack


def against_nets(repeats: int) -> Iterator[Record]:
    x, y = cifar10("test", 128)
    yield from _shares(RESNET, net(RESNET), "cifar10-test[:128]", x, y, {"r=3": 3}, 20, repeats)
    x, y = (part[:16] for part in imagenet(224))
    yield from _shares(SQUEEZENET, squeezenet(), "imagenet-samples[:16]", x, y, {"r=3": 3, "r=0.1": 0.1}, 10, repeats)


def _shares(
    name: str,
    model: nn.Module,
    data: str,
    x: Tensor,
    y: Tensor,
    ranks: dict[str, int | float],
    steps: int,
    repeats: int,
) -> Iterator[Record]:
    found = interleaved({text: spent(model, x, y, rank, steps) for text, rank in ranks.items()}, repeats)
    for text, times in found.items():
        settings: dict[str, JSON] = {"against": "model", "eps": EPS, "rank": ranks[text], "steps": steps}
        above, below = [time.outside for time in times], [time.inside for time in times]
        yield ratio_record("update-cost", name, data, len(x), settings, above, below)


@dataclass
class Oracle:
    """A model that costs nothing: always the same gradient, and a margin that rises, so that every iterate is kept."""

    given: Tensor
    margins: Iterator[Tensor]
    doubtful: Tensor

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> Judged:
        return Judged(self.given, self.judge(x, y), self.doubtful)

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        return next(self.margins)[: len(x)]


def against_published(repeats: int, steps: int = 20) -> Iterator[Record]:
    for shape in SHAPES:
        for rank in (1, 3, 6):
            found = interleaved(_updates(shape, rank, steps), repeats)
            settings: dict[str, JSON] = {"against": "published update", "eps": EPS, "rank": rank, "steps": steps}
            data = "random-" + "x".join(map(str, shape))
            yield ratio_record("update-cost", "none", data, shape[0], settings, found["ours"], found["published"])


def _updates(shape: tuple[int, ...], rank: int, steps: int) -> dict[str, Callable[[], float]]:
    """Both updates over equally many steps, fed the same gradient."""
    generator = torch.Generator().manual_seed(0)
    n, c, h, w = shape
    x, y = torch.rand(shape, generator=generator), torch.zeros(n, dtype=torch.long)
    gradient = 1e-3 * torch.randn(shape, generator=generator)
    u = torch.randn((n, c, h, rank), generator=generator)
    u, v = u / u.flatten(1).norm(dim=1).view(-1, 1, 1, 1), torch.zeros((n, c, rank, w))
    options, doubtful = Options(eps=EPS, rank=rank, steps=steps), torch.zeros(n, dtype=torch.bool)
    margins = [torch.full((n,), float(level)) for level in range(-steps, 10)]
    return {
        "ours": seconds(lambda: run(Oracle(gradient, iter(margins), doubtful), x, y, options)),
        "published": seconds(lambda: lora_pgd(x, u, v, lambda _: gradient, EPS, steps)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file the records are appended to")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", choices=("nets", "published"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"published": against_published, "nets": against_nets}
    for name, part in parts.items():
        if arguments.only in (None, name):
            for record in part(arguments.repeats):
                append(arguments.out, record)
                print(told(record), flush=True)


if __name__ == "__main__":
    main()
