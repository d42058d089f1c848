"""Trains every contender: settings tuned one after the other with one seed on images to tune on, then three seeds.

A record a training; recorded ones are skipped, so a run that was stopped goes on. `warm_table.py` prints them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from shared_parts import digest, robust
from torch import Tensor, nn
from torch.optim import Optimizer
from warm_contenders import Contender, Setting, contenders
from warm_tasks import TASKS, Task

from art_lowrank import lowrank_pgd
from art_lowrank.record import Record, append, pack, read, versions
from art_lowrank.training.loop import Course, Diverged, Learner, shuffled, train
from art_lowrank.training.measure import measured
from art_lowrank.training.moves import Moves, Place
from art_lowrank.training.objectives import Objective
from art_lowrank.training.overfitting import Fgsm

RESULTS = Path(__file__).resolve().parents[1] / "results" / "warm_start.jsonl"
SEEDS, TESTED, TUNED = (0, 1, 2), 500, 1000
SOURCE = digest()  # now: the files may change while nets are trained
ITERATIONS, TARGETS = 50, 3  # of the judge, as in integration/training
JUDGES = {"tune": "lowrank-pgd[power] rank=full N=20", "final": f"APGD-CE + APGD-T N={ITERATIONS} targets={TARGETS}"}
NORMS = {2: 2.0, "inf": float("inf")}

Batches = Callable[[int], Iterator[tuple[Tensor, Tensor, Place]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--only", default="", help="contenders whose name holds this text")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[arguments.task]
    for contender in contenders(task):
        if arguments.only in contender.name:
            setting = tuned(task, contender, arguments.results)
            for seed in SEEDS[: arguments.seeds]:
                run(task, contender, setting, seed, "final", arguments.results)


def tuned(task: Task, contender: Contender, results: Path) -> Setting:
    """The rate first, then the length of the step, then the reset: each the best with what was found before."""
    best = Setting(task.rates[1], contender.lengths[0], contender.resets[0])
    for name, values in (("rate", task.rates), ("length", contender.lengths), ("reset", contender.resets)):
        tried = [best._replace(**{name: value}) for value in values]
        scores = [score(run(task, contender, setting, 0, "tune", results)) for setting in tried]
        best = tried[scores.index(max(scores))]
    return best


def score(record: Record) -> float:
    """Robust accuracy alone: its mean with clean accuracy would choose weak attacks on nets where the two compete."""
    return 0.0 if "diverged" in record.values else float(str(record.values["robust"]))


def run(task: Task, contender: Contender, setting: Setting, seed: int, role: str, results: Path) -> Record:
    """Train and judge, unless that is recorded."""
    asked = question(task, contender, setting, seed, role)
    found = next((r for r in (read(results) if results.exists() else []) if r.id == asked.id), None)
    if found is not None:
        return found
    started = time.process_time()
    try:
        model, spent = trained(task, contender, setting, seed)
        values = judged(task, model, role)
    except Diverged as error:
        spent, values = time.process_time() - started, {"diverged": str(error)[:80]}
    volatile = {"train_seconds": spent, "process_seconds": time.process_time() - started}
    record = Record(**{**vars(asked), "values": values, "volatile": volatile, "versions": sources()})
    append(results, record)
    shown = {name: values[name] for name in ("clean", "single", "robust", "diverged") if name in values}
    print(f"{task.name}, {contender.name} {tuple(setting)} seed={seed} {role}: {shown} {spent:.1f} s", flush=True)
    return record


def sources() -> dict[str, str]:
    return {**versions("torch", "pyautoattack"), "source": SOURCE}


def trained(task: Task, contender: Contender, setting: Setting, seed: int) -> tuple[nn.Module, float]:
    """The net after its epochs, and the process time they took."""
    model, epochs = task.build(seed), contender.epochs(task)
    optimizer = scheduled(task, model, setting.rate, epochs)
    objective = Objective("madry", contender.adversary(task, setting))
    started = time.process_time()
    train(
        Learner(model, model, optimizer, objective), batches(task, contender, seed), Course(epochs, seed, None, False)
    )
    return model.eval(), time.process_time() - started


def scheduled(task: Task, model: nn.Module, rate: float, epochs: int) -> Optimizer:
    """The task's optimizer, whose rate rises to its peak and falls again, every step."""
    optimizer = task.optimizer(model, rate)
    steps = epochs * -(-len(task.data().train.x) // task.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps + 1, anneal_strategy="linear", cycle_momentum=False
    )
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def batches(task: Task, contender: Contender, seed: int) -> Batches:
    """Shuffled; in some tasks cropped from a border and mirrored, and stored perturbations with them."""
    x, y = task.data().train
    plain = shuffled(x, y, task.batch, seed, torch.device("cpu"))
    size = (x.shape[2], x.shape[3])

    def moved(epoch: int) -> Iterator[tuple[Tensor, Tensor, Place]]:
        draws = torch.Generator().manual_seed(1000 * seed + epoch)
        for images, labels, (rows, _) in plain(epoch):
            moves = Moves.random(len(rows), size, draws, task.padding, task.flip)
            known = moves if contender.transport else None
            yield moves.images(images, size), labels, Place(rows, known)

    return moved if task.padding else plain


def judged(task: Task, model: nn.Module, role: str) -> dict[str, object]:
    """Clean accuracy, that under one step, and robust accuracy: by a short attack where it is only to tune."""
    part = task.data().validation if role == "tune" else task.data().test
    x, y = (part.x[:TUNED], part.y[:TUNED]) if role == "tune" else (part.x[:TESTED], part.y[:TESTED])
    single = measured(model, model, x, y, Fgsm(task.eps, task.norm, (0, 1))).robust
    assert single is not None
    clean = measured(model, model, part.x, part.y).clean
    if role == "tune":
        holds = ~lowrank_pgd(model, x, y, eps=task.eps, norm=task.norm, rank="full", steps=20).success
    else:
        holds = robust(model, x, y, task.eps, NORMS[task.norm], ITERATIONS, TARGETS)
    shares = {"clean": clean, "single": single, "robust": holds}
    return {
        **{name: float(flags.double().mean()) for name, flags in shares.items()},
        "right": pack(clean.tolist()),
        "holds": pack(holds.tolist()),
    }


def question(task: Task, contender: Contender, setting: Setting, seed: int, role: str) -> Record:
    """What is asked, without an answer."""
    part = {"tune": "to tune on", "final": "test"}[role]
    return Record(
        kind="warm-start",
        model=task.model,
        data=f"{task.name.split()[0]}, {part}",
        attack=f"{JUDGES[role]} {task.name}",
        seed=seed,
        n=TUNED if role == "tune" else TESTED,
        settings={
            "task": task.name,
            "contender": contender.name,
            "epochs": contender.epochs(task),
            "gradients": contender.gradients,
            **setting._asdict(),
        },
        values={},
    )


if __name__ == "__main__":
    main()
