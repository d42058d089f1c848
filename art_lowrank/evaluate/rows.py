"""What an evaluation has found, cells put together: a row a model, data and attack, and the worst case of a threat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from art_lowrank.evaluate.outcome import NotRun, failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import JSON, Record, bits
from art_lowrank.statistics import Interval, wilson

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
Slices = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Row:
    """One model under one attack, over all slices."""

    model: str
    data: str
    attack: str
    threat: str  # "" of the clean row
    seed: int | None
    robust: Flags  # (n,) images that hold
    attacked: int = 0  # images
    gradients: float = 0.0  # an image that was attacked
    seconds: float = 0.0
    doubts: tuple[str, ...] = ()  # of the model, seen on clean images: on all of its rows
    notes: tuple[str, ...] = ()  # of this attack
    curve: tuple[tuple[float, float], ...] = ()  # rank or radius, and accuracy there
    error: str = ""
    not_run: bool = False  # because the model failed on the clean images
    before: tuple[str, ...] = ()  # attacks whose survivors it was run on
    slices: Slices = ()  # which images: start and stop, of the records that are done
    records: tuple[Record, ...] = ()  # what it is made of, in the order of the slices

    @cached_property
    def accuracy(self) -> Interval:
        """The share of images that hold."""
        return wilson(int(self.robust.sum()), len(self.robust))

    @property
    def after(self) -> int:
        """On the survivors of how many attacks it was run."""
        return len(self.before)

    @cached_property
    def cover(self) -> Slices:
        """Which images, however they were cut into slices."""
        found: list[tuple[int, int]] = []
        for start, stop in self.slices:
            if found and found[-1][1] == start:
                found[-1] = found[-1][0], stop
            else:
                found.append((start, stop))
        return tuple(found)

    def only(self, cover: Slices) -> Row | None:
        """The same on some of its images; None where it has not seen them all."""
        known = [place for start, stop in self.cover for place in range(start, stop)]
        wanted = [place for start, stop in cover for place in range(start, stop)]
        places = np.searchsorted(known, wanted)
        if not wanted or not set(wanted) <= set(known):
            return None
        return replace(self, robust=self.robust[places], slices=cover)

    @property
    def done(self) -> tuple[Record, ...]:
        """The records that were not given up."""
        return tuple(record for record in self.records if not failed(record))


def rows_of(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[Row]:
    """One row a model, data and attack (and seed), in the plan's order."""
    texts = {cell.id: cell.attack for cell in cells}
    groups: dict[tuple[str, ...], dict[tuple[str, ...], list[Cell]]] = {}
    for cell in cells:
        if cell.id in records:
            groups.setdefault(_subject(cell), {}).setdefault(_attack(cell, texts), []).append(cell)
    found = []
    for attacks in groups.values():
        parts = map(_apart, attacks.values())
        some = [_row(part, [records[cell.id] for cell in part], _before(part[0], texts)) for part in parts]
        doubts = next((row.doubts for row in some if row.attack == CLEAN), ())
        found += [replace(row, doubts=doubts) for row in some]
    return found


def with_worst(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, and after those of a model the worst case of each threat, where every attack has seen all images."""
    for model in dict.fromkeys((row.model, row.data) for row in rows):
        found = [row for row in rows if (row.model, row.data) == model]
        yield from found
        for threat in dict.fromkeys(row.threat for row in found if row.threat):
            of_threat = [row for row in found if row.threat == threat and not row.error]
            if len(of_threat) > 1 and len({row.cover for row in of_threat}) == 1:
                yield worst(of_threat)


def worst(rows: Sequence[Row]) -> Row:
    """Images that hold against every one of these attacks."""
    first = rows[0]
    attacks = len({row.attack for row in rows})
    name = f"worst of {len(rows)} seeds" if len(rows) > attacks == 1 else f"worst of {attacks}"
    robust = np.logical_and.reduce([row.robust for row in rows])
    return Row(
        first.model, first.data, name, first.threat, None, robust, doubts=first.doubts, slices=first.slices
    )  # fmt: skip


def _subject(cell: Cell) -> tuple[str, ...]:
    """What a model and its images are: the same name may mean another file in another evaluation."""
    return cell.model, cell.data, text_of(cell.identity["model"]), text_of(cell.identity["data"])


def _attack(cell: Cell, texts: Mapping[str, str]) -> tuple[str, ...]:
    """What an attack is, the same on every slice."""
    return cell.attack, str(cell.seed), text_of(cell.identity["attack"]), *_before(cell, texts)


def _before(cell: Cell, texts: Mapping[str, str]) -> tuple[str, ...]:
    """The attacks whose survivors it is run on."""
    return tuple(texts.get(need, need) for need in cell.needs[1:])


def text_of(meaning: JSON) -> str:
    """A meaning as text, the same for the same."""
    return json.dumps(meaning, sort_keys=True, default=str)


def _apart(cells: Sequence[Cell]) -> list[Cell]:
    """Slices that do not overlap, the larger ones first: somebody may have asked for 100 images, and then for all."""
    kept: list[Cell] = []
    for cell in sorted(cells, key=lambda cell: (cell.start - cell.stop, cell.start)):
        if all(cell.stop <= other.start or other.stop <= cell.start for other in kept):
            kept.append(cell)
    return sorted(kept, key=lambda cell: cell.start)


def _row(cells: Sequence[Cell], records: Sequence[Record], before: tuple[str, ...]) -> Row:
    first, done = cells[0], [record for record in records if not failed(record)]
    images = sum(_attacked(record) for record in done)
    lost = [record.values for record in records if failed(record)]
    return Row(
        first.model,
        first.data,
        first.attack,
        _threat(first, done),
        None if first.attack == CLEAN else first.seed,
        np.concatenate([flags_of(record, "robust") for record in done] or [np.zeros(0, np.bool_)]),
        attacked=images,
        gradients=_total(done, "gradients") / max(1, images),
        seconds=sum(_number(record.volatile.get("seconds")) for record in done),
        doubts=tuple(dict.fromkeys(_doubts(done))),
        notes=tuple(_notes(done)),
        curve=tuple(_curve(done)),
        error=str(lost[0]["error"]) if lost else "",
        not_run=any(values["type"] == NotRun.__name__ for values in lost),
        before=before,
        slices=tuple(
            (cell.start, cell.stop) for cell, record in zip(cells, records, strict=True) if not failed(record)
        ),
        records=tuple(records),
    )


def _threat(cell: Cell, done: Sequence[Record]) -> str:
    """What the attack was allowed; of one that failed, what it was to be allowed."""
    if cell.attack == CLEAN:
        return ""
    known = next((str(record.values["threat"]) for record in done if "threat" in record.values), "")
    meant = cell.identity["attack"]
    asked = meant.get("threat") if isinstance(meant, Mapping) else None
    if known or not isinstance(asked, list) or len(asked) != 3 or not isinstance(asked[1], int | float):
        return known
    tile = asked[2] if isinstance(asked[2], int) else None
    return str(Threat(str(asked[0]), float(asked[1]), tile))


def _doubts(done: Sequence[Record]) -> Iterator[str]:
    """Of the model, from its clean cells."""
    for record in done:
        if isinstance(doubts := record.values.get("doubts"), list):
            yield from (str(doubt) for doubt in doubts)
    if zero := _total(done, "zero_gradients"):
        yield f"no gradient on {zero:.0f} of {_total(done, 'gradients_looked_at'):.0f}"
    if done and done[0].attack == CLEAN and not _total(done, "right"):
        yield "no image is right"


def _notes(done: Sequence[Record]) -> Iterator[str]:
    """Of an attack: what makes its number doubtful."""
    for name, words in (("outside", "broken outside the ball"), ("unreadable", "with NaN logits")):
        if count := _total(done, name):
            yield f"{count:.0f} {words}"
    if count := sum(int(flags_of(record, "dead").sum()) for record in done if "dead" in record.values):
        yield f"{count} without gradient"


def _curve(done: Sequence[Record]) -> Iterator[tuple[float, float]]:
    """Accuracy at every value of a curve: the share of all images that were right and are not broken up to there."""
    if not done or not isinstance(values := done[0].values.get("values"), list):
        return
    broken_at = np.concatenate([breaking(record) for record in done])
    for value in map(_number, values):
        yield value, float((broken_at > value).mean())


def breaking(record: Record) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of a curve, the rank or radius that broke each image: 0 what was not attacked, infinity what none broke."""
    found = record.values["breaking"]
    assert isinstance(found, list)
    at = np.array([np.inf if value is None else _number(value) for value in found])
    at = np.where(flags_of(record, "robust"), np.inf, at)  # what was broken on the way, and held when asked again
    return np.where(flags_of(record, "attacked"), at, 0.0)


def flags_of(record: Record, name: str) -> Flags:
    """A packed bool an image."""
    found: Flags = np.frombuffer(bits(str(record.values[name]), record.n).encode(), np.uint8) == ord("1")
    return found


def _attacked(record: Record) -> int:
    return int(flags_of(record, "attacked").sum()) if "attacked" in record.values else record.n


def _total(done: Sequence[Record], name: str) -> float:
    return sum(_number(record.values.get(name)) for record in done)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
