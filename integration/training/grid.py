"""Trains every contender: some learning rates with one seed, judged on images to tune on; the best with three seeds.

A record a training; recorded ones are skipped, so a run that was stopped goes on. `training_table.py` prints them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from borrowed import Factored, digest
from contenders import Contender
from lenet import Split
from robustness import robust
from tasks import TASKS, Task
from torch import nn

from art_lowrank import lowrank_pgd
from art_lowrank.record import Record, append, pack, read, versions
from art_lowrank.training.loop import Course, Diverged, Learner, shuffled, train
from art_lowrank.weights import low_rank_layers, ranks_of

RESULTS = Path(__file__).resolve().parents[1] / "results" / "training.jsonl"
SEEDS, TESTED, TUNED = (0, 1, 2), 500, 500
SOURCE = digest()  # now: the files may change while nets are trained
ITERATIONS, TARGETS = 50, 3  # of the judge; 100 and 9 leave at most 2 of 500 images fewer, for four times the time
JUDGES = {"tune": "lowrank-pgd[power] rank=full N=10", "final": f"APGD-CE + APGD-T N={ITERATIONS} targets={TARGETS}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    parser.add_argument("--task", choices=list(TASKS), default="lenet5")
    parser.add_argument("--only", default="", help="contenders whose name and share hold this text")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th, from I")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[arguments.task]
    wanted = [c for c in task.contenders if arguments.only in f"{c.name} keep={c.keep}"]
    for contender in wanted[arguments.part[0] :: arguments.part[1]]:
        for rate in task.rates:
            run(task, contender, rate, 0, "tune", arguments.results)
        for seed in SEEDS:
            run(task, contender, best_rate(task, contender, arguments.results), seed, "final", arguments.results)


def run(task: Task, contender: Contender, rate: float, seed: int, role: str, results: Path) -> None:
    """Train and judge, unless that is recorded."""
    asked = question(task, contender, rate, seed, role)
    if any(record.id == asked.id for record in recorded(results)):
        return
    started = time.process_time()
    values, spent = outcome(task, contender, rate, seed, role)
    volatile = {"train_seconds": spent, "process_seconds": time.process_time() - started}
    found = {
        **vars(asked),
        "values": values,
        "volatile": volatile,
        "versions": {**versions("torch", "pyautoattack"), "source": SOURCE},
    }
    append(results, Record(**found))
    shown = {name: values[name] for name in ("clean", "robust", "cond") if name in values}
    print(f"{contender.name} keep={contender.keep} lr={rate} seed={seed} {role}: {shown} {spent:.1f} s", flush=True)


def outcome(task: Task, contender: Contender, rate: float, seed: int, role: str) -> tuple[dict[str, object], float]:
    """What came out, and the seconds of training."""
    started = time.process_time()
    try:
        model, loss = trained(task, contender, rate, seed)
    except (Diverged, torch.linalg.LinAlgError) as error:
        return {"diverged": str(error)[:80]}, time.process_time() - started
    spent = time.process_time() - started
    return {**shape(model), **judged(task, model, role), "loss": loss}, spent


def trained(task: Task, contender: Contender, rate: float, seed: int) -> tuple[nn.Module, float]:
    """The net after the task's epochs, and its last loss."""
    model, optimizer, handles = contender.build(seed, rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [task.epochs // 2, task.epochs * 3 // 4], 0.3)
    learner = Learner(model, model, optimizer, task.objective, handles, schedule)
    batches = shuffled(*task.data().train, task.batch, seed, torch.device("cpu"))
    history = train(learner, batches, Course(task.epochs, seed, verbose=False))
    return model.eval(), history[-1]["loss"]


def judged(task: Task, model: nn.Module, role: str) -> dict[str, object]:
    """Clean and robust accuracy: on tuning images by a short attack, on test images by the judge of the table."""
    part: Split = task.data().validation if role == "tune" else task.data().test
    model.eval()
    with torch.no_grad():
        clean = model(part.x).argmax(1) == part.y
    if role == "tune":
        x, y = part.x[:TUNED], part.y[:TUNED]
        holds = ~lowrank_pgd(model, x, y, eps=task.eps, norm=task.norm, rank="full", steps=10).success
    else:
        holds = robust(model, part.x[:TESTED], part.y[:TESTED], task.eps, task.norm, ITERATIONS, TARGETS)
    return {
        "clean": float(clean.double().mean()),
        "robust": float(holds.double().mean()),
        "right": pack(clean.tolist()),
        "holds": pack(holds.tolist()),
    }


def shape(model: nn.Module) -> dict[str, object]:
    """Stored parameters, ranks and the largest condition number."""
    conds = [layer.cond() for layer in low_rank_layers(model).values()]
    conds += [cond_of(layer.weight()) for layer in model.modules() if isinstance(layer, Factored)]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "ranks": ranks_of(model),
        "cond": max(conds) if conds else None,
    }


def cond_of(weight: torch.Tensor) -> float:
    """Over the singular values that are not rounding."""
    values = torch.linalg.svdvals(weight.detach().flatten(1).double())
    values = values[values > values[0] * 1e-5]
    return float(values[0] / values[-1])


def best_rate(task: Task, contender: Contender, results: Path) -> float:
    """The rate with the best mean of clean and robust accuracy on tuning images."""
    found = [record for record in recorded(results) if of(task, contender, record, "tune")]
    tuned = {record.settings["lr"]: record.values for record in found}
    return max(task.rates, key=lambda rate: score(tuned[rate]))


def score(values: dict[str, float]) -> float:
    return 0.0 if "diverged" in values else (values["clean"] + values["robust"]) / 2


def question(task: Task, contender: Contender, rate: float, seed: int, role: str) -> Record:
    """What is asked, without an answer."""
    settings = {name: str(value) for name, value in contender.settings.items()}
    return Record(
        kind="training",
        model=task.name,
        data=task.tuned_on if role == "tune" else task.tested_on,
        attack=f"{JUDGES[role]} {task.ball}",
        seed=seed,
        n=TUNED if role == "tune" else TESTED,
        settings={"contender": contender.name, "keep": contender.keep, "lr": rate, "epochs": task.epochs, **settings},
        values={},
    )


def of(task: Task, contender: Contender, record: Record, role: str) -> bool:
    asked = (task.name, contender.name, contender.keep, f"{JUDGES[role]} {task.ball}")
    return asked == (record.model, record.settings["contender"], record.settings["keep"], record.attack)


def recorded(path: Path) -> list[Record]:
    found: Iterator[Record] = iter(read(path) if path.exists() else [])
    return [record for record in found if record.kind == "training"]


if __name__ == "__main__":
    main()
