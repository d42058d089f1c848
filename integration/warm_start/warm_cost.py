"""What a warm start costs: a step of it against one of PGD-7, and the store's share of a step on a ResNet-20.

Ratios of process time on one thread, of interleaved repeats. For a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from shared_parts import digest, net, ratio
from warm_contenders import FAST, PGD, Contender, Setting, stored
from warm_grid import RESULTS
from warm_tasks import TASKS, Task, cifar10

from art_lowrank.record import Record, append, versions
from art_lowrank.statistics import Interval
from art_lowrank.training.adversaries import SingleStep
from art_lowrank.training.moves import Moves, Place
from art_lowrank.training.objectives import Objective
from art_lowrank.training.store import PerturbationStore
from art_lowrank.training.warm_start import Warm

BATCH, SHIFT = 100, 8 / 255
Timed = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, rank in (("mnist l2 2.0", 3), ("mnist linf 0.3", 5)):
        task = TASKS[name]
        for other in (PGD, FAST):
            note(arguments, f"step: warm start, rank {rank} / {other.name}", name, *steps(task, stored(rank), other))
    for rank in (3, 5):
        for where in ("memory", "file"):
            note(arguments, f"store / single step, rank {rank}, {where}", "cifar10 resnet20", *kept(rank, where))


def steps(task: Task, ours: Contender, other: Contender) -> tuple[Timed, Timed]:
    """A whole training step of each on the same batch."""
    return step(task, ours), step(task, other)


def step(task: Task, contender: Contender) -> Timed:
    model = task.build(0)
    optimizer = task.optimizer(model, task.rates[0])
    objective = Objective("madry", contender.adversary(task, Setting(task.rates[0], contender.lengths[0])))
    x, y = (part[:BATCH] for part in task.data().train)
    place = Place(torch.arange(BATCH))
    if isinstance(objective.adversary, Warm):
        for epoch in range(2):  # an epoch that has something to start from
            objective.adversary.begin(epoch)
            objective.at(place)(model, model, x, y, 0)
            if epoch == 0:
                objective.adversary.store.commit()

    def run() -> None:
        optimizer.zero_grad()
        objective.at(place)(model, model, x, y, 0).loss.backward()
        optimizer.step()

    return run


def kept(rank: int, where: str) -> tuple[Timed, Timed]:
    """Loading, moving and saving the perturbations of a batch, and a training step that does without."""
    x, y = (part[:BATCH] for part in cifar10().train)
    model = net("cifar10_resnet20_standard").requires_grad_(True).train()
    folder = None if where == "memory" else tempfile.mkdtemp()
    store = PerturbationStore(50_000, (3, 32, 32), rank, folder)
    draws = torch.Generator().manual_seed(0)
    moves, indices = Moves.random(BATCH, (32, 32), draws), torch.randperm(50_000, generator=draws)[:BATCH]
    delta = SingleStep(SHIFT, "inf")(model, x, y, 0) - x
    store.begin(0)
    store.save(indices, delta / SHIFT, moves)
    store.commit()
    store.begin(1)

    def memory() -> None:
        store.load(indices, moves).dense()
        store.save(indices, delta / SHIFT, moves)

    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    objective = Objective("madry", SingleStep(SHIFT, "inf"))

    def plain() -> None:
        optimizer.zero_grad()
        objective(model, model, x, y, 0).loss.backward()
        optimizer.step()

    return memory, plain


def note(arguments: argparse.Namespace, what: str, data: str, above: Timed, below: Timed) -> None:
    found: Interval = ratio(above, below, arguments.repeats)
    record = Record(
        kind="warm-start-cost",
        model=data,
        data=f"one batch of {BATCH}",
        attack=what,
        seed=0,
        n=arguments.repeats,
        settings={"threads": 1},
        values={},
        volatile={"ratio": list(found)},
        versions={**versions("torch"), "source": digest()},
    )
    append(arguments.results, record)
    print(f"{what}, {data}: {found}", flush=True)


if __name__ == "__main__":
    main()
