"""Folders of evaluations written without running a model: outcomes are what a test says they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import Record, append, pack

WEAK = "no strong attack"
SHOWN = {"device": "cpu", "batch_size": 128, "finished": "2026-11-21T12:00:00+00:00"}


def held(share, n=200, seed=None):
    """Of n images the first ones hold, or, with a seed, some of them."""
    flags = np.arange(n) < round(share * n)
    return flags if seed is None else np.random.default_rng(seed).permutation(flags)


@pytest.fixture(name="held")
def _held():
    return held


@pytest.fixture
def folder(tmp_path):
    """Write the records of one model: `folder(attacks={"lowrank-pgd[rank=1]": flags or values}, ...)`."""

    def write(
        attacks, model="net", eps=0.5, norm="L2", clean=None, out="out", seed=0, data="digits", survivors=False,
        size=None, start=0, weights="w", **more,
    ):  # fmt: skip
        first = next(iter(attacks.values()), held(1.0))
        first = first["robust"] if isinstance(first, dict) else first
        clean = {"robust": held(1.0, len(first) + start) if clean is None else clean} | more
        n = len(clean["robust"])
        path, before = tmp_path / out, []
        for begin in range(start, n, size or n):
            end = min(begin + (size or n), n)
            common = {"model": {"spec": model, "files": [weights]}, "data": {"spec": data}}
            cell = Cell(model, data, begin, end, CLEAN, 0, {**common, "attack": CLEAN})
            append(path / "records.jsonl", _record(cell, clean, {"classes": 10, "doubts": [], "most_common": n // 10}))
            before.clear()
            for attack, values in attacks.items():
                values = values if isinstance(values, dict) else {"robust": values}
                threat = Threat(norm, eps)
                meant = {"spec": attack, "threat": threat.meaning()}
                earlier = list(before) if survivors else []
                attacked = replace(
                    cell, attack=attack, seed=seed, identity={**common, "attack": meant, "after": earlier},
                    needs=(cell.id, *earlier),
                )  # fmt: skip
                before.append(attacked.id)
                known = {"attacked": clean["robust"], "threat": str(threat), "distance_max": eps, "gradients": 10 * n}
                append(path / "records.jsonl", _record(attacked, values, known))
        return path

    return write


def _record(cell, values, known):
    values = {**known, **values}
    part = slice(cell.start, cell.stop)
    if "error" in values:
        values = {"status": "failed", "error": values["error"], "type": "ValueError", "traceback": ""}
    else:
        flags = {name: np.asarray(values[name])[part] for name in ("robust", "attacked", "dead") if name in values}
        values |= {name: pack(flag.tolist()) for name, flag in flags.items()}
        values |= {"status": "done", "right": int(flags["robust"].sum()), "model_hash": "m1", "data_hash": "d1"}
    settings = {"cell": cell.id, "start": cell.start, "stop": cell.stop, "meant": cell.identity}
    versions = values.pop("versions", {"torch": "2.15.0"})
    volatile = {**SHOWN, "seconds": 0.5, **values.pop("volatile", {})}
    n = cell.stop - cell.start
    return Record(
        "evaluation", cell.model, cell.images, cell.attack, cell.seed, n, settings, values, volatile, versions
    )


@pytest.fixture
def kinds(folder):
    """The kinds of doubt by attack, of one written model; but for one that most of these would have."""

    def seen(*arguments, **options):
        summary = summary_of(folder(*arguments, **options))
        found = {row: [flag.kind for flag in flags if flag.kind != WEAK] for row, flags in summary.flags.items()}
        return {(row.attack, row.threat): kinds for row, kinds in found.items() if kinds}

    return seen
