"""What low-rank training costs beside dense training: steps, enforcement, convolutions, exported nets.

Process time of one thread, the two sides in turn, the median of the ratios with its interval; for a quiet machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from borrowed import UnfoldConv2d, digest
from contenders import chosen, dense, low_rank
from grid import RESULTS
from lenet import lenet5, mnist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from art_lowrank.record import Record, append, versions
from art_lowrank.statistics import Interval, median_ratio
from art_lowrank.weights import LowRankConv2d, densify, factorize

BATCH, RATE = 100, 0.05
NETS = ((0.2, "uniform"), (0.2, "activation"), (0.07, "activation"))
# in, out, kernel, side, batch, ranks: the shapes of which a prototype's times were known
CONVOLUTIONS = (
    (20, 50, 5, 12, 64, (5, 10, 25)),
    (64, 128, 3, 16, 16, (12, 25, 64)),
    (256, 256, 3, 8, 16, (25, 51, 128)),
)

Timed = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for keep, rule in NETS:
        ours, plain = step_of(keep, rule), step_of(1, "")
        note(arguments, "step / dense step", keep, rule, ratio(ours, plain, arguments.repeats))
        note(arguments, "enforcement / step", keep, rule, ratio(enforcement(keep, rule), ours, arguments.repeats))
        pair, whole = inference(keep, rule)
        note(arguments, "exported pairs / dense, inference", keep, rule, ratio(pair, whole, arguments.repeats))
    for *shape, ranks in CONVOLUTIONS:
        for rank in ranks:
            convolution(arguments, *shape, rank)


def step_of(keep: float, rule: str) -> Timed:
    """A training step of LeNet5 on a batch of 100."""
    model, optimizer, _ = dense(0, RATE) if keep == 1 else low_rank(0, RATE, keep, rule, "condlr", max_cond=1.5)
    x, y = batch()

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def enforcement(keep: float, rule: str) -> Timed:
    """What the constraint adds to a step."""
    _, _, handles = low_rank(0, RATE, keep, rule, "condlr", max_cond=1.5)
    return handles[-1].enforce


def inference(keep: float, rule: str) -> tuple[Timed, Timed]:
    """The exported net of plain layers, and the dense one, without gradients."""
    small = densify(factorize(lenet5(0), ranks=chosen(keep, rule, 0)), pairs=True).eval()
    whole, (x, _) = lenet5(0).eval(), batch()

    def forward(model: nn.Module) -> Timed:
        def run() -> None:
            with torch.no_grad():
                model(x)

        return run

    return forward(small), forward(whole)


def convolution(
    arguments: argparse.Namespace, cin: int, cout: int, kernel: int, side: int, images: int, rank: int
) -> None:
    """Forward and backward of one layer: unfold against two convolutions, in time and in bytes kept for backward."""
    x = torch.randn(images, cin, side, side, requires_grad=True)
    around = 1 if kernel == 3 else 0
    ours = LowRankConv2d(cin, cout, kernel, rank, padding=around)
    other = UnfoldConv2d(cin, cout, kernel, rank, padding=around)
    name = f"{cin}-{cout} k{kernel} {side}x{side} r={rank} batch={images}"
    slower = ratio(both_ways(other, x), both_ways(ours, x), arguments.repeats)
    note(arguments, f"unfold / two convolutions, time, {name}", 0, "", slower)
    bytes_kept = kept(other, x) / kept(ours, x)
    note(arguments, f"unfold / two convolutions, bytes, {name}", 0, "", Interval(bytes_kept, bytes_kept, bytes_kept))


def both_ways(layer: nn.Module, x: Tensor) -> Timed:
    def run() -> None:
        torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])

    return run


def kept(layer: nn.Module, x: Tensor) -> int:
    """Bytes of distinct memory that autograd saves, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    del output
    return sum(found.values())


def ratio(above: Timed, below: Timed, repeats: int) -> Interval:
    """above / below, in turn, after a warm-up."""
    for run in (above, below):
        for _ in range(3):
            run()
    times = [(seconds(above), seconds(below)) for _ in range(repeats)]
    return median_ratio(*zip(*times, strict=True))


def seconds(run: Timed) -> float:
    """Process time, of as many calls as take a hundredth of a second."""
    calls, spent = 0, 0.0
    started = time.process_time()
    while spent < 0.01:
        run()
        calls += 1
        spent = time.process_time() - started
    return spent / calls


def note(arguments: argparse.Namespace, what: str, keep: float, rule: str, found: Interval) -> None:
    record = Record(
        kind="training-cost",
        model="lenet5",
        data="mnist_train[:100]",
        attack=what,
        seed=0,
        n=arguments.repeats,
        settings={"keep": keep, "ranks": rule, "threads": 1},
        values={},
        volatile={"ratio": list(found)},
        versions={**versions("torch"), "source": digest()},
    )
    append(arguments.results, record)
    print(f"{what} {f'keep={keep} {rule}' if keep else ''}: {found}", flush=True)


def batch() -> tuple[Tensor, Tensor]:
    part = mnist().train
    return part.x[:BATCH], part.y[:BATCH]


if __name__ == "__main__":
    main()
