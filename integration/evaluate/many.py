"""A folder like that of a large evaluation, 100 models x 20 attacks x 1,000 images, written without running a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path

import numpy as np

from art_lowrank.evaluate.plan import CLEAN, Cell, Plan, cells_of
from art_lowrank.evaluate.spec import parse
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import Record, pack, versions

MODELS, ATTACKS, IMAGES, SEED = 100, 20, 1000, 0
THREAT = Threat("L2", 0.5)
RANKS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def write_many(folder: Path, models: int = MODELS, attacks: int = ATTACKS, images: int = IMAGES) -> None:
    """Records as the engine writes them, margins of every image included."""
    draws = np.random.default_rng(SEED)
    names = [*(f"lowrank-pgd[power,rank={rank},steps=20]" for rank in (1, 2, 3, 6, 16, "full")), "rank-curve"]
    names += [f"torchattacks:PGDL2[steps={steps},alpha=0.1]" for steps in range(10, 10 * attacks, 10)]
    meanings = {name: {"spec": parse(name).identity, "threat": THREAT.meaning()} for name in names[:attacks]}
    nets = {f"robustbench:cifar10/L2/Net{number:03d}": {"spec": str(number), "files": []} for number in range(models)}
    cells = cells_of(nets, {"robustbench:cifar10": ({"spec": "cifar10"}, images)}, meanings, Plan(slice=images))
    folder.mkdir(parents=True)
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for record in _records(cells, draws, images):
            file.write(dumps(asdict(record)) + "\n")


def _records(cells: list[Cell], draws: np.random.Generator, n: int) -> Iterator[Record]:
    strength = {name: number for number, name in enumerate(dict.fromkeys(cell.attack for cell in cells))}
    for cell in cells:
        if cell.attack == CLEAN:
            at, clean = draws.gamma(2.0, draws.uniform(0.2, 0.6), n), draws.random(n) < 0.92
            values = {"robust": pack(clean.tolist()), "doubts": [], "zero_gradients": 0, "classes": 10}
            yield _record(cell, {**values, "most_common": n // 10, "shape": [3, 32, 32]}, draws)
            continue
        robust = clean & (at * (1 + 0.5 / (1 + strength[cell.attack])) > 0.5)
        values = {"robust": pack(robust.tolist()), "attacked": pack(clean.tolist()), "dead": pack([False] * n)}
        values |= {"threat": str(THREAT), "distance_max": 0.5, "distance_mean": 0.4, "outside": 0, "unreadable": 0}
        values |= {"gradients": 17 * n, "forwards": 18 * n, "margin": draws.normal(size=n).tolist()}
        if cell.attack == "rank-curve":
            broken = draws.choice(RANKS, n).tolist()
            breaking = [None if holds else rank for holds, rank in zip(robust, broken, strict=True)]
            values |= {"along": "rank", "values": list(RANKS), "breaking": breaking}
        yield _record(cell, values, draws)


def _record(cell: Cell, values: dict[str, object], draws: np.random.Generator) -> Record:
    known = {"status": "done", "model_hash": f"{abs(hash(cell.model)):016x}"[:16], "data_hash": "512ead2e3e94aa9b"}
    settings = {"cell": cell.id, "start": cell.start, "stop": cell.stop, "meant": cell.identity}
    volatile = {"seconds": float(draws.uniform(1, 30)), "device": "cpu", "batch_size": 128, "finished": "2026-11-21"}
    n = cell.stop - cell.start
    whole = {**values, **known, "right": bin(int(str(values["robust"]), 16)).count("1")}
    return replace(
        Record("evaluation", cell.model, cell.images, cell.attack, cell.seed, n, settings, whole, volatile),
        versions=versions("torch", "numpy"),
    )
