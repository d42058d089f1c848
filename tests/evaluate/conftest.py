"""Plans that take milliseconds, models that misbehave, and records without what may differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path
from textwrap import indent

import pytest

from art_lowrank.evaluate import evaluate, plan_of
from art_lowrank.record import read

QUICK = ("lowrank-pgd[rank=1,steps=3]", "lora-pgd[rank=2,steps=3]")
MODULE = """
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from art_lowrank.demo.nets import built_in


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = built_in("standard")

    def forward(self, x):
{forward}


def net():
{load}
{tail}
"""
NUMBERS = count()


@pytest.fixture
def write_model(tmp_path, monkeypatch):
    """A model over the standard digits net by the code of its forward, and of what loads it: its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(forward="return self.net(x)", load="return Net()", tail=""):
        name = f"net_{os.getpid()}_{next(NUMBERS)}"
        text = MODULE.format(forward=indent(forward, " " * 8), load=indent(load, " " * 4), tail=tail)
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:net"

    return write


@pytest.fixture
def plan():
    """A plan of a few images; changes by name."""

    def made(**changes):
        return plan_of({"models": ["digits:standard"], "attacks": QUICK, "images": 40, "slice": 20, **changes})

    return made


@pytest.fixture
def run(plan, tmp_path):
    """Evaluate a changed plan in a folder: its records by cell in the order of the plan."""

    def ran(out="out", retry=False, **changes):
        found = evaluate(plan(**changes), tmp_path / out, retry=retry, verbose=False)
        return [found.records[cell.id] for cell in found.cells]

    return ran


@pytest.fixture
def stable():
    """What must be the same whenever a folder is filled: by cell, all but `volatile`; each cell once."""

    def lasting(folder):
        records = read(Path(folder) / "records.jsonl")
        found = {record.settings["cell"]: {**asdict(record), "volatile": None} for record in records}
        assert len(found) == len(records)
        return json.loads(json.dumps(found, sort_keys=True))

    return lasting


@pytest.fixture
def images():
    """The bytes of all files of adversarial images by name."""
    return lambda folder: {path.name: path.read_bytes() for path in (Path(folder) / "images").iterdir()}


@pytest.fixture
def process(tmp_path):
    """`art-lowrank evaluate` as a process of its own, started."""

    def started(*arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-m", "art_lowrank", "evaluate", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            **options,
        )

    return started
