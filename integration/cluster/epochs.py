"""How long an epoch of adversarial training takes one process and several: `art-lowrank train` under torchrun.

python integration/cluster/epochs.py                       # one process and two; on CUDA each has a GPU of its own
python integration/cluster/epochs.py --images 500 --epochs 2 --repeats 2 --results /tmp/try.jsonl

Random images, the small net, Madry's objective with five steps, a thread a process. The ways take turns; the first
epoch of a run, which warms up, does not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch

from art_lowrank.record import Record, append, versions
from art_lowrank.statistics import median_ratio
from art_lowrank.training.checkpoint import LAST, read

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cluster.jsonl"
KIND = "epochs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measured(arguments, Path(folder))
    append(arguments.results, record)
    print(record.values)


def measured(arguments: argparse.Namespace, folder: Path) -> Record:
    """The seconds of an epoch by one process over those by several."""
    images = folder / "random.npz"
    chance = np.random.default_rng(0)
    x = chance.random((arguments.images, 3, 32, 32), dtype=np.float32)
    y = chance.integers(0, 10, arguments.images)
    np.savez(images, x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])
    counts = (1, arguments.processes)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for repeat in range(arguments.repeats):
        for count in counts:
            seconds[count].append(epoch(count, images, folder / f"{count}-{repeat}", arguments.epochs))
    one, several = seconds.values()
    ratio = median_ratio(one, several)
    values = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, one thread a process",
        "one / several": [ratio.value, ratio.low, ratio.high],
        **{f"seconds, {count}": median(found) for count, found in seconds.items()},
    }
    settings = {"processes": arguments.processes, "epochs": arguments.epochs, "repeats": arguments.repeats}
    return Record(
        KIND, "small", "random", "madry, 5 steps", 0, arguments.images, settings, values,
        {"seconds": list(seconds.values())}, versions("torch", "accelerate"),
    )  # fmt: skip


def epoch(processes: int, images: Path, out: Path, epochs: int) -> float:
    """The median seconds of an epoch after the first."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    recipe = ["--data", str(images), "--objective", "madry", "--epochs", str(epochs), "--out", str(out), "--quiet"]
    command = [sys.executable, "-m", *launcher, "art_lowrank", "train", *recipe]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return median(float(one["seconds"]) for one in read(out / LAST)["history"][1:])


if __name__ == "__main__":
    main()
