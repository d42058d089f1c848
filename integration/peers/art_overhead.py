"""What ART's interface costs: LowRankPGD.generate against the bare function, and against ART's own PGD."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from art.attacks.evasion import ProjectedGradientDescent
from assets import cifar10, net
from attacks import estimator
from facts import ART, BARE, ROBUST_NETS, told
from plan import STEP
from timing import interleaved, ratio_record, seconds

from art_lowrank import LowRankPGD, lowrank_pgd
from art_lowrank.record import JSON, Record, append

EPS, RANK, STEPS, N = 0.5, 3, 20, 128


def sides(name: str) -> dict[str, Callable[[], float]]:
    """The three attacks on the same images, with equally many gradients."""
    model, (x, y) = net(name), cifar10("test", N)
    images, labels, classifier = x.numpy(), y.numpy(), estimator(model, x)
    ours = LowRankPGD(classifier, eps=EPS, rank=RANK, max_iter=STEPS, batch_size=N, verbose=False)
    theirs = ProjectedGradientDescent(
        classifier, norm=2, eps=EPS, eps_step=STEP * EPS, max_iter=STEPS, batch_size=N, verbose=False
    )
    return {
        "ours": seconds(lambda: ours.generate(images, labels)),
        BARE: seconds(lambda: lowrank_pgd(model, x, y, eps=EPS, rank=RANK, steps=STEPS)),
        ART: seconds(lambda: theirs.generate(images, labels)),
    }


def overheads(name: str, repeats: int) -> Iterator[Record]:
    found = interleaved(sides(name), repeats)
    for rival in (BARE, ART):
        settings: dict[str, JSON] = {"against": rival, "eps": EPS, "rank": RANK, "steps": STEPS}
        yield ratio_record("art-overhead", name, f"cifar10-test[:{N}]", N, settings, found["ours"], found[rival])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file the records are appended to")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--nets", nargs="+", default=list(ROBUST_NETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.nets:
        for record in overheads(name, arguments.repeats):
            append(arguments.out, record)
            print(told(record), flush=True)


if __name__ == "__main__":
    main()
