"""What the engine costs: one net against the bare attack loop, the bare command, --help, the resume scan, a report.

Wall-clock on one thread, interleaved repeats, the median of ratios with its interval. For a quiet machine:
`tox run -e training -- integration/evaluate/cost.py`
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from many import ATTACKS, IMAGES, MODELS, write_many

from art_lowrank import lowrank_pgd
from art_lowrank.evaluate import Plan, Store, evaluate
from art_lowrank.evaluate.run import bench_of
from art_lowrank.record import Record, append, versions
from art_lowrank.statistics import median_ratio

ASSETS = Path(os.environ.get("ART_LOWRANK_ASSETS", Path(__file__).resolve().parents[3] / "shared" / "assets"))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "evaluate.jsonl"
NETS = (("cifar10_resnet20_standard", 200), ("cifar10_resnet4b_linf_adv", 2000))
RANK, STEPS, SCANNED, LIMIT = 3, 20, 100_000, 1.10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    parser.add_argument("--repeats", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not (ASSETS / "zoo.py").is_file():
        raise SystemExit(f"no zoo.py in {ASSETS}: set ART_LOWRANK_ASSETS to the folder of nets and images")
    sys.path.insert(0, str(ASSETS))
    with tempfile.TemporaryDirectory() as folder:
        for net, images in NETS:
            overhead(arguments, Path(folder), net, images)
        commands(arguments, Path(folder))
        scan(arguments, Path(folder))
        report(arguments, Path(folder))


def overhead(arguments: argparse.Namespace, folder: Path, net: str, images: int) -> None:
    """The same images, options and batches on both sides; the engine also plans, judges, hashes, writes and syncs."""
    plan = Plan(
        models=[f"zoo:net[name={net}]"],
        data=[str(ASSETS / "cifar10_test.npz")],
        attacks=[f"lowrank-pgd[rank={RANK},steps={STEPS},early_stop=false]"],
        images=images,
    )
    bench = bench_of(plan)
    subject = bench.subject(next(iter(bench.models)))
    x, y = next(iter(bench.data.values())).rows(0, images, subject)
    with torch.no_grad():
        right = subject.model(x).argmax(1) == y
    x, y = x[right], y[right]  # what the engine attacks
    turns = iter(range(1_000_000))

    def bare() -> None:
        for some, labels in zip(x.split(plan.batch_size), y.split(plan.batch_size), strict=True):
            lowrank_pgd(subject.model, some, labels, eps=plan.eps, rank=RANK, steps=STEPS)

    def engine() -> None:
        found = evaluate(plan, folder / f"{net}-{next(turns)}", verbose=False)
        assert not found.failures

    above, below = [], []
    for turn in range(arguments.repeats + 1):
        sides = [(engine, above), (bare, below)]
        for work, times in sides if turn % 2 else reversed(sides):
            times.append(seconds(work))
    ratio = median_ratio(above[1:], below[1:])
    print(f"{net}, {images} images: engine / bare loop {ratio}")
    settings = {"net": net, "rank": RANK, "steps": STEPS, "repeats": arguments.repeats}
    note(arguments, "engine / bare loop", images, settings, ratio._asdict(), {"above": above[1:], "below": below[1:]})


def commands(arguments: argparse.Namespace, folder: Path) -> None:
    """The bare command from start to end, and --help."""
    lines = {"evaluate": ["evaluate", "--out", str(folder / "bare"), "--quiet"], "help": ["evaluate", "--help"]}
    for name, words in lines.items():
        times = [
            seconds(
                lambda words=words: subprocess.run([sys.executable, "-m", "art_lowrank", *words], check=True, stdout=-3)
            )
            for _ in range(1 if name == "evaluate" else 10)
        ]
        middle = sorted(times)[len(times) // 2]
        print(f"{name}: {middle:.2f} s")
        note(arguments, f"command: {name}", len(times), {}, {}, {"seconds": times})


def scan(arguments: argparse.Namespace, folder: Path) -> None:
    """Opening a folder of many records, once it has some."""
    source = folder / "bare" / "records.jsonl"
    line = next(text for text in source.read_bytes().splitlines() if b"rank-curve" in text)
    cell = line.split(b'"cell": "')[1][:12]
    many = folder / "many"
    Store(many)
    with (many / "records.jsonl").open("wb") as file:
        for number in range(SCANNED):
            file.write(line.replace(cell, b"%012x" % number, 1) + b"\n")
    size = (many / "records.jsonl").stat().st_size

    def opened() -> None:
        with Store(many) as store:
            assert len(store) == SCANNED

    times = [seconds(opened) for _ in range(6)][1:]
    print(f"scan of {SCANNED:,} records, {size / 1e6:.0f} MB: {sorted(times)[2]:.2f} s")
    note(arguments, "resume scan", SCANNED, {"bytes": size}, {}, {"seconds": times})


def report(arguments: argparse.Namespace, folder: Path) -> None:
    """The command on a large evaluation, without the gallery: its time, and the page's size."""
    source = folder / "many-models"
    write_many(source)
    line = [sys.executable, "-m", "art_lowrank", "report", str(source), "--gallery", "0"]
    times = [seconds(lambda: subprocess.run(line, check=True, stdout=-3)) for _ in range(5)]
    size = (source / "report" / "index.html").stat().st_size
    print(f"report of {MODELS} models x {ATTACKS} attacks: {sorted(times)[2]:.2f} s, {size / 1e6:.2f} MB")
    settings = {"models": MODELS, "attacks": ATTACKS}
    note(arguments, "report", IMAGES, settings, {"bytes": size}, {"seconds": times})


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def note(
    arguments: argparse.Namespace,
    what: str,
    n: int,
    settings: dict[str, object],
    values: dict[str, object],
    volatile: dict[str, object],
) -> None:
    found = versions("torch", "numpy")
    record = Record("evaluate-cost", what, "", "", 0, n, settings, values, volatile, found)
    append(arguments.results, record)


if __name__ == "__main__":
    main()
