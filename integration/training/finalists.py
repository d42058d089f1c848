"""AutoAttack standard on the finalists, trained anew with seed 0: the dense net and the constrained one."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from contenders import Contender
from grid import RESULTS, SOURCE, best_rate, question, trained
from robustness import standard
from tasks import TASKS

from art_lowrank.record import Record, append, pack, read, versions
from art_lowrank.statistics import wilson

FINALISTS = (("dense", 1), ("condlr 1.5", 0.2))
TASK, SEED, N = TASKS["lenet5"], 0, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    results = parser.parse_args().results
    torch.set_num_threads(1)
    done = {record.id for record in read(results)}
    for contender in TASK.contenders:
        if (contender.name, contender.keep) in FINALISTS:
            asked = asked_of(contender, results)
            if asked.id not in done:
                append(results, answered(contender, asked))


def asked_of(contender: Contender, results: Path) -> Record:
    """The question: the rate is the one the grid found."""
    final = question(TASK, contender, best_rate(TASK, contender, results), SEED, "final")
    return replace(final, kind="training-autoattack", attack=f"AutoAttack standard {TASK.ball}", n=N)


def answered(contender: Contender, asked: Record) -> Record:
    """Train as the grid does, then attack the first 200 test images."""
    started = time.process_time()
    model, _ = trained(TASK, contender, float(str(asked.settings["lr"])), SEED)
    test = TASK.data().test
    holds = standard(model, test.x[:N], test.y[:N], TASK.eps, TASK.norm)
    print(f"{contender.name} keep={contender.keep}: {wilson(int(holds.sum()), N).percent()}", flush=True)
    return replace(
        asked,
        values={"robust": float(holds.double().mean()), "holds": pack(holds.tolist())},
        volatile={"process_seconds": time.process_time() - started},
        versions={**versions("torch", "pyautoattack"), "source": SOURCE},
    )


if __name__ == "__main__":
    main()
