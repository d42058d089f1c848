"""Robust accuracy under our attack and its peers: a record a cell, written as it ends; recorded cells are skipped."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from assets import cifar10, net
from cells import Cell, measured
from facts import label, number
from plan import PLANS, STANDARD_IMAGES, STANDARD_NETS

from art_lowrank.record import append, read


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    done = {record.id for record in read(arguments.out)} if arguments.out.exists() and not arguments.again else set()
    for seed in arguments.seeds:
        for name in arguments.nets:
            todo = [cell for cell in cells(arguments, name, seed) if cell.asked.id not in done]
            if todo:
                work(todo, arguments.out)


def work(todo: list[Cell], out: Path) -> None:
    """Measure cells of one net and append their records."""
    model = net(todo[0].model)
    x, y = cifar10(todo[0].split, todo[0].n)
    for cell in todo:
        started = time.perf_counter()
        found = measured(cell, model, x, y)
        append(out, found)
        print(
            f"{cell.model} eps {cell.eps} seed {found.seed} {label(found.attack, found.settings)}: "
            f"{100 * number(found.values['robust_accuracy']):.1f} % in {time.perf_counter() - started:.1f} s",
            flush=True,
        )


def cells(arguments: argparse.Namespace, name: str, seed: int) -> Iterator[Cell]:
    """The cells of one net and seed; attacks without randomness have the first seed alone."""
    n = min(arguments.n, STANDARD_IMAGES) if name in STANDARD_NETS else arguments.n
    for eps, contenders in PLANS[name].items():
        for contender in contenders:
            name_of = label(contender.attack, contender.settings)
            wanted = arguments.only is None or any(text in name_of for text in arguments.only)
            if wanted and (contender.random or seed == arguments.seeds[0]):
                yield Cell(name, contender, eps, seed, arguments.split, n)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file the records are appended to")
    parser.add_argument("--nets", nargs="+", default=list(PLANS), choices=list(PLANS), metavar="NET")
    parser.add_argument("--n", type=int, default=1000, help="images: the first of the split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only attacks whose name holds one of these texts")
    parser.add_argument("--again", action="store_true", help="measure recorded cells anew; the table takes the last")
    return parser.parse_args()


if __name__ == "__main__":
    main()
