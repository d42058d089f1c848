"""What the watch over catastrophic overfitting sees and mends: MNIST, l_inf 0.3, three seeds.

`forgets` empties its store every epoch, which is fast training; `mended` is the same that may fall back to two steps.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from shared_parts import digest
from warm_contenders import stored
from warm_grid import RESULTS, SEEDS, batches, judged, scheduled
from warm_tasks import TASKS

from art_lowrank.record import Record, append, versions
from art_lowrank.training.learner import Learner
from art_lowrank.training.loop import Course, train
from art_lowrank.training.objectives import Objective
from art_lowrank.training.overfitting import Watch
from art_lowrank.training.store import PerturbationStore
from art_lowrank.training.warm_start import Warm, WarmStart

TASK, RATE, LENGTH, WATCHED = TASKS["mnist linf 0.3"], 0.004, 0.75, 256
RAMP = TASK.ramp * TASK.epochs
CASES = {"remembers": (None, False), "forgets": (1, False), "mended": (1, True)}  # reset, fall back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    results = parser.parse_args().results
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what the watch says is recorded
    for name in CASES:
        for seed in SEEDS:
            record = watched(name, seed)
            append(results, record)
            print(name, seed, record.values["gaps"], f"robust {record.values['robust']:.3f}", flush=True)


def watched(name: str, seed: int) -> Record:
    """Train under watch: the gap after every epoch, and accuracy on images to tune on at the end."""
    reset, fall_back = CASES[name]
    data, model = TASK.data(), TASK.build(seed)
    optimizer = scheduled(TASK, model, RATE, TASK.epochs)
    store = PerturbationStore(len(data.train.x), (1, 28, 28), 5)
    objective = Objective("madry", Warm(store, TASK.eps, TASK.norm, WarmStart(5, 1, LENGTH, ramp=RAMP, reset=reset)))
    part = data.validation
    watch = Watch(part.x[-WATCHED:], part.y[-WATCHED:], TASK.eps, TASK.norm, fall_back=fall_back, ramp=RAMP)
    learner = Learner(model, model, optimizer, objective, watch=watch)
    history = train(learner, batches(TASK, stored(5), seed), Course(TASK.epochs, seed, None, False))
    found = judged(TASK, model.eval(), "tune")
    return Record(
        kind="warm-start-watch",
        model=TASK.model,
        data="mnist, to tune on",
        attack=f"lowrank-pgd[power] rank=full N=20 {TASK.name}",
        seed=seed,
        n=1000,
        settings={
            "case": name,
            "rate": RATE,
            "length": LENGTH,
            "reset": reset,
            "fall_back": fall_back,
            "limit": watch.limit,
        },
        values={"gaps": [epoch["overfit"] for epoch in history], **{k: found[k] for k in ("clean", "robust")}},
        versions={**versions("torch"), "source": digest()},
    )


if __name__ == "__main__":
    main()
