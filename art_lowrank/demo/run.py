"""The demo itself: a net trained on the spot, PGD and the low-rank attack through ART and torchattacks, one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from art_lowrank.attack import lowrank_pgd
from art_lowrank.demo.digits import Split, digits, trained_net
from art_lowrank.demo.picture import draw
from art_lowrank.record import Record, append, pack, versions
from art_lowrank.statistics import wilson

EPS, STEPS, RANKS = 0.5, 20, (1, 2, 4, "full")
IMAGES = 300


class Entry(NamedTuple):
    """One attack of the demo: what the table calls it, and how it is run."""

    host: str
    attack: str
    rank: int | str
    run: Callable[[Tensor, Tensor], Tensor]


def main(out: Path, seed: int, say: Callable[[str], Any] = print) -> None:
    """Train, attack, print the table, write records and picture."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a net this small only loses by more, ten times over on a busy machine
    try:
        _run(out, seed, say)
    finally:
        torch.set_num_threads(threads)


def _run(out: Path, seed: int, say: Callable[[str], Any]) -> None:
    started = time.perf_counter()
    train, test = digits()
    test = Split(test.x[:IMAGES], test.y[:IMAGES])
    net = trained_net(train, seed=seed)
    say(f"A net of {sum(p.numel() for p in net.parameters()):,} parameters, trained on {len(train.x)} digits of 8 x 8.")
    say(f"Attacks on {IMAGES} test digits in the l2 ball of radius {EPS}, {STEPS} gradients each:\n")
    say(f"{'host':13s} {'attack':20s} {'rank':>5s}  robust accuracy, 95 % interval")
    for entry in entries(net):
        broken = net(entry.run(test.x, test.y)).argmax(1) != test.y
        report(entry, broken, out / "records.jsonl", seed, say)
    for name, extra in (("torchattacks", "torchattacks"), ("matplotlib", "report")):
        if find_spec(name) is None:
            say(f"\n{name} is not installed, so its part is left out: pip install 'art-lowrank[{extra}]'")
    if find_spec("matplotlib") is not None:
        attacked = lowrank_pgd(net, test.x, test.y, eps=EPS, rank=2, steps=STEPS, seed=seed)
        draw(net, test, attacked, out / "demo.png")
        say(f"\nPicture: {out / 'demo.png'}")
    say(f"Records: {out / 'records.jsonl'}")
    say(f"Done in {time.perf_counter() - started:.0f} s.")


def report(entry: Entry, broken: Tensor, path: Path, seed: int, say: Callable[[str], Any]) -> None:
    """One line of the table, one record."""
    n = len(broken)
    robust = wilson(int((~broken).sum()), n)
    say(f"{entry.host:13s} {entry.attack:20s} {entry.rank!s:>5s}  {robust.percent()}")
    record = Record(
        kind="demo",
        model="digits-small-net",
        data=f"digits[1297:{1297 + n}]",
        attack=f"{entry.host} {entry.attack}".strip(),
        seed=seed,
        n=n,
        settings={"eps": EPS, "steps": STEPS, "rank": entry.rank},
        values={"robust": n - int(broken.sum()), "broken": pack(broken.tolist())},
        versions=versions("art-lowrank", "torch", "adversarial-robustness-toolbox", "torchattacks"),
    )
    append(path, record)


def entries(net: nn.Module) -> Iterator[Entry]:
    """No attack; then PGD and ours by way of every host that is installed."""
    yield Entry("", "none", "", lambda x, y: x)
    yield from art_entries(net)
    if find_spec("torchattacks") is not None:
        yield from torchattacks_entries(net)


def art_entries(net: nn.Module) -> Iterator[Entry]:
    """ART: arrays in, arrays out."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    from art_lowrank.hosts.art_attack import LowRankPGD

    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), input_shape=(1, 8, 8), nb_classes=10, clip_values=(0, 1))

    def through(attack: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    pgd = ProjectedGradientDescent(classifier, norm=2, eps=EPS, eps_step=EPS / 5, max_iter=STEPS, verbose=False)
    yield Entry("ART", "PGD", "full", through(pgd))
    for rank in RANKS:
        ours = LowRankPGD(classifier, eps=EPS, rank=rank, max_iter=STEPS, verbose=False)
        yield Entry("ART", "lowrank-pgd[power]", rank, through(ours))


def torchattacks_entries(net: nn.Module) -> Iterator[Entry]:
    """torchattacks: tensors in, tensors out."""
    from torchattacks import PGDL2

    from art_lowrank.hosts.torchattacks import LoRaPGD

    yield Entry("torchattacks", "PGDL2", "full", PGDL2(net, eps=EPS, alpha=EPS / 5, steps=STEPS, random_start=False))
    for rank in RANKS:
        yield Entry("torchattacks", "lowrank-pgd[power]", rank, LoRaPGD(net, eps=EPS, rank=rank, steps=STEPS))
    yield Entry("torchattacks", "lora-pgd[paper]", 2, LoRaPGD(net, eps=EPS, rank=2, steps=STEPS, method="paper"))
