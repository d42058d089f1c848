"""Peak memory of an attack, in a process of its own: above what the process held, net and images included.

Beside it the peak of one forward and backward pass of the same net on the same images, which every attack needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from study import Notes, Question
from torch.nn.functional import cross_entropy
from worlds import images_of, model_of

from art_lowrank.record import JSON

KIND = "evidence-memory"
ONE_GRADIENT = "one forward and backward pass"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def answer(question: Question, notes: Notes) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """None where the system tells no peak."""
    asked = json.dumps({**vars(question), "job": None, "settings": dict(question.settings)})
    done = subprocess.run([sys.executable, __file__, asked], capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1])
    return {}, {"peak_bytes": peak if peak >= 0 else None}


def peak_of(question: Question) -> int:
    """Bytes that the process takes at most while the attack runs, over what it takes before; -1 if not known."""
    from strength_cells import ATTACKS, Job

    torch.set_num_threads(1)
    model, (x, y) = model_of(question.model), images_of(question.data.split("-")[0], question.n)
    settings: dict[str, Any] = {**question.settings, "name": question.model}
    job = Job(model, x, y, float(settings["eps"]), 0)

    def run(job: Job) -> None:
        if question.attack == ONE_GRADIENT:
            images = job.x.clone().requires_grad_()
            torch.autograd.grad(cross_entropy(model(images), job.y), images)
        else:
            ATTACKS[question.attack](job, settings)

    run(job._replace(x=x[:2].clone(), y=y[:2].clone()))  # imports and set-up are nobody's memory
    try:
        before = kilobytes("VmRSS")
        CLEAR.write_text("5", encoding="ascii")
        run(job)
        return 1024 * (kilobytes("VmHWM") - before)
    except (OSError, StopIteration):
        return -1


def kilobytes(name: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    print(peak_of(Question(**json.loads(sys.argv[1]))))
