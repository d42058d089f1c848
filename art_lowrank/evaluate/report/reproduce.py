"""The command that runs a row's cells again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from art_lowrank.evaluate.plan import CLEAN, Plan
from art_lowrank.evaluate.rows import Row
from art_lowrank.record import JSON, Record


def commands(row: Row, before: Mapping[str, str]) -> list[str]:
    """One command, or one for every kind of slice; `before` has the attacks of all cells by their ids.

    Files that are looked for in --data-dir and --model-dir, and the device, are the reader's own.
    """
    return list(dict.fromkeys(_command(record, images, size, before) for record, images, size in _slices(row.records)))


def _slices(records: Sequence[Record]) -> Iterator[tuple[Record, int, int]]:
    """Every record with the numbers --images and --slice that make its slice, common ones where they exist."""
    bounds = [(int(str(record.settings["start"])), int(str(record.settings["stop"]))) for record in records]
    size, last = max(stop - start for start, stop in bounds), max(stop for _, stop in bounds)
    for record, (start, stop) in zip(records, bounds, strict=True):
        if start % size == 0 and stop == min(start + size, last):
            yield record, last, size
        else:
            yield record, stop, start or stop


def _command(record: Record, images: int, size: int, before: Mapping[str, str]) -> str:
    words = ["art-lowrank", "evaluate", "--out", "again", "--model", record.model, "--data", _data(record)]
    meant = record.settings["meant"]
    attack = meant.get("attack") if isinstance(meant, Mapping) else None
    after = meant.get("after") if isinstance(meant, Mapping) else None
    if isinstance(after, Sequence) and after:
        for cell in after:
            words += ["--attack", before.get(str(cell), "?")]
        words.insert(4, "--survivors")
    words += ["--attack", record.attack]
    if record.attack != CLEAN:
        words += [*_threat(attack), "--seed", str(record.seed)]
    words += ["--images", str(images)]
    if size != min(images, Plan.slice):
        words += ["--slice", str(size)]
    batch = record.volatile.get("batch_size")
    if isinstance(batch, int) and batch != Plan.batch_size:
        words += ["--batch-size", str(batch)]
    return shlex.join(words)


def _data(record: Record) -> str:
    return record.data.removesuffix(f"[{record.settings['start']}:{record.settings['stop']}]")


def _threat(attack: JSON) -> list[str]:
    """Norm and radius as they were used, exactly."""
    threat = attack.get("threat") if isinstance(attack, Mapping) else None
    if not isinstance(threat, Sequence) or len(threat) < 2:
        return []
    return ["--norm", str(threat[0]), "--eps", repr(threat[1])]
