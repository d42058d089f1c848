"""`run_cell`: one model, one slice, one attack, one seed; images in, a record and tensors out."""

from __future__ import annotations

import datetime
import platform
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from art_lowrank.attack.factors import Factors
from art_lowrank.attack.oracle import evaluating
from art_lowrank.evaluate.batches import Size, batched
from art_lowrank.evaluate.bench import Bench, Found, Subject
from art_lowrank.evaluate.checks import check_classes, check_finite, doubts, dynamic, logits_of, zero_gradients
from art_lowrank.evaluate.counting import Cost, counted
from art_lowrank.evaluate.outcome import KIND, NotRun, failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import JSON, Record, pack, unpack
from art_lowrank.training.data import Images
from art_lowrank.training.measure import fingerprint


class Outcome(NamedTuple):
    """What a cell leaves: a record, and the images and factors that go into its file."""

    record: Record
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Work:
    """A cell with everything it is run on."""

    cell: Cell
    subject: Subject
    images: Images
    data_hash: str
    size: Size


def run_cell(cell: Cell, bench: Bench, before: Mapping[str, Record]) -> Outcome:
    """Run the cell; whatever goes wrong with model or attack becomes a record of the failure."""
    try:
        if cell.needs and failed(clean := before[cell.needs[0]]):
            raise NotRun(f"the model failed on the clean images: {clean.values['error']}")
        subject = bench.subject(cell.model)
        images, data_hash = bench.images(cell.data, cell.start, cell.stop, subject)
        work = Work(cell, subject, images, data_hash, Size(bench.batch_size))
        check_unchanged(work, before)
        with evaluating(subject.model):
            return _clean(work, bench) if cell.attack == CLEAN else _attacked(work, bench, before)
    except (Exception, SystemExit) as error:  # of somebody else's model or attack: it must not end the evaluation
        return Outcome(failure(cell, error), {})


def check_unchanged(work: Work, before: Mapping[str, Record]) -> None:
    """All slices are judged on one model, and attacks on the images whose clean accuracy is known."""
    for record in before.values():
        for name, now in (("model", work.subject.hash), ("data", work.data_hash)):
            then = record.values.get(f"{name}_hash") if name == "model" or record.data == work.cell.images else None
            if then is not None and then != now:
                raise ValueError(
                    f"{getattr(work.cell, name)} has changed since {record.attack} was run on it ({name} hash {then}, "
                    f"now {now}); give another folder with --out"
                )


def failure(cell: Cell, error: BaseException) -> Record:
    """The record of a cell that could not be run. Addresses of objects are left out: they differ from run to run."""
    text = "".join(traceback.format_exception(error))
    plain = isinstance(error, ValueError | OSError | ImportError)
    line = " ".join(f"{'' if plain else type(error).__name__ + ': '}{error}".split()) or type(error).__name__
    values = {"status": "failed", "error": line[:500], "type": type(error).__name__, "traceback": text}
    values = {name: re.sub(r"0x[0-9a-f]{6,}", "0x...", value) for name, value in values.items()}
    return record_of(cell, cell.stop - cell.start, values, {"finished": _now()}, {})


def _clean(work: Work, bench: Bench) -> Outcome:
    """How the model does without an attack, and whether it can be evaluated at all."""
    model, (x, y), device = work.subject.model, work.images, bench.device
    with counted(model, device) as cost:
        logits, size = logits_of(model, x, device, work.size)
        check_classes(logits, y)
        check_finite(logits)
        found = doubts(logits, lambda n: logits_of(model, x[:n], device, size)[0])
        found += ["dynamic"] if dynamic(model, x, device, size) else []
        zero, looked = zero_gradients(model, x, y, logits, device, size)
    said = logits.argmax(1)
    right = said == y
    values: dict[str, Any] = {
        "right": int(right.sum()),
        "robust": pack(right.tolist()),
        "doubts": found,
        "zero_gradients": zero,
        "gradients_looked_at": looked,
        "classes": logits.shape[1],
        "most_common": int(y.bincount().max()) if len(y) else 0,  # images of the class that has most
        "shape": list(x.shape[1:]),
    }
    tensors = {"x": as_bytes(x), "rows": torch.arange(len(x)), "y": y, "said": said} if bench.keep_images else {}
    return Outcome(_record(work, values, cost, size, bench, ()), tensors)


def _attacked(work: Work, bench: Bench, before: Mapping[str, Record]) -> Outcome:
    """The images that still hold before the attack, and those that hold after it."""
    entry, (x, y), device = bench.attacks[work.cell.attack], work.images, bench.device
    holding = standing(work.cell, before, len(x))
    rows = holding.nonzero().flatten()
    run = entry.prepare(work.subject)

    def part(start: int, stop: int) -> Found:
        some = rows[start:stop]
        with cost.attempt():
            return run(x[some].to(device), y[some].to(device), work.cell.seed, start).on_cpu(x[some])

    with counted(work.subject.model, device) as cost:
        parts, size = batched(part, len(rows), work.size)
    found = Found.joined(parts, x[rows])
    judged, size = judge(work, found.x, rows, entry.threat, device, size)
    values = {**judged.values(), **found.spread(rows, len(x)), "threat": str(entry.threat)}
    values["attacked"] = pack(holding.tolist())
    robust = holding.clone()
    robust[rows[judged.broken]] = False
    values["right"], values["robust"] = int(robust.sum()), pack(robust.tolist())
    kept = {"x": found.x, "rows": rows, "said": judged.said, **_pair(found.factors)}
    values["images"] = fingerprint(found.x)
    return Outcome(_record(work, values, cost, size, bench, entry.packages), kept if bench.keep_images else {})


def as_bytes(x: Tensor) -> Tensor:
    """Images as 0 to 255 where that loses nothing, which is a fourth of the disk."""
    found = (x * 255).round().to(torch.uint8)
    return found if torch.equal(found.to(x.dtype) / 255, x) else x


class Judged(NamedTuple):
    """What attacked images are worth, (n,) each."""

    broken: Tensor  # bool: misclassified, and within the threat
    outside: Tensor  # bool: misclassified, but moved too far, or out of [0, 1]
    unreadable: Tensor  # bool: the model gives NaN or infinity; counted as broken where within the threat
    distance: Tensor  # how far they were moved
    said: Tensor  # the class they are taken for

    def values(self) -> dict[str, JSON]:
        far = self.distance[torch.isfinite(self.distance)]
        return {
            "outside": int(self.outside.sum()),
            "unreadable": int(self.unreadable.sum()),
            "distance_mean": float(far.mean()) if len(far) else None,
            "distance_max": float(far.max()) if len(far) else None,
        }


def judge(
    work: Work, moved: Tensor, rows: Tensor, threat: Threat, device: torch.device, size: Size
) -> tuple[Judged, Size]:
    """Ask the model, and measure: an attack's own word is not taken."""
    x, y = work.images.x[rows], work.images.y[rows]
    if moved.shape != x.shape:
        raise ValueError(f"the attack returned images of shape {tuple(moved.shape)} for {tuple(x.shape)}")
    logits, size = logits_of(work.subject.model, moved, device, size)
    unreadable = ~torch.isfinite(logits).all(1)
    distances = threat.distances(x, moved)
    said = logits.argmax(1)
    wrong, allowed = (said != y) | unreadable, threat.allows(x, moved, distances)
    return Judged(wrong & allowed, wrong & ~allowed, unreadable, distances, said), size


def standing(cell: Cell, before: Mapping[str, Record], n: int) -> Tensor:
    """Which images the attack is run on: right as they are, and not broken by the attacks it comes after."""
    held = torch.ones(n, dtype=torch.bool)
    for need in cell.needs:
        record = before[need]
        if not failed(record):
            held &= torch.tensor(unpack(str(record.values["robust"]), n), dtype=torch.bool)
    return held


def _pair(factors: Factors | None) -> dict[str, Tensor]:
    return {} if factors is None else {"left": factors.left, "right": factors.right}


def _record(
    work: Work, values: Mapping[str, JSON], cost: Cost, size: Size, bench: Bench, packages: tuple[str, ...]
) -> Record:
    known = {
        "status": "done",
        **values,
        "forwards": cost.forwards,
        "gradients": cost.gradients,
        "model_hash": work.subject.hash,
        "data_hash": work.data_hash,
    }
    volatile = {
        "seconds": cost.seconds,
        "peak_bytes": cost.peak_bytes,
        "host": platform.node(),
        "device": bench.device_name,
        "threads": torch.get_num_threads(),
        "batch_size": size.images,
        "halved": size.halved,
        "channels_last": bench.layout is torch.channels_last,
        "finished": _now(),
    }
    versions = bench.versions(*packages, *work.subject.packages)
    return record_of(work.cell, len(work.images.x), known, volatile, versions)


def record_of(
    cell: Cell, n: int, values: Mapping[str, Any], volatile: Mapping[str, Any], versions: Mapping[str, str]
) -> Record:
    """A record of the cell; `settings` say what was asked and name the cell."""
    settings: dict[str, JSON] = {"cell": cell.id, "start": cell.start, "stop": cell.stop, "meant": cell.identity}
    return Record(KIND, cell.model, cell.images, cell.attack, cell.seed, n, settings, values, volatile, versions)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
