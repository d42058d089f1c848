"""Rows put together to the lines of a leaderboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from art_lowrank.evaluate.plan import CLEAN
from art_lowrank.evaluate.rows import Row, Slices, worst


@dataclass(frozen=True, eq=False)
class Entry:
    """A line of a leaderboard: a model on some images, and everything that was run against it with one threat."""

    model: str
    data: str
    threat: str  # "" where no attack came to anything
    clean: Row
    rows: tuple[Row, ...]  # of this threat

    @cached_property
    def counted(self) -> tuple[Row, ...]:
        """The attacks that have seen the very images whose clean accuracy is known."""
        return tuple(row for row in self.rows if not row.error and row.cover == self.clean.cover)

    @cached_property
    def worst(self) -> Row | None:
        """What holds against all that are counted."""
        return worst(self.counted) if self.counted and not self.clean.error else None


def entries_of(rows: Sequence[Row]) -> Iterator[Entry]:
    """Every model, data set and threat; a model without any attack, or that failed, has one entry without a threat."""
    for model, data in dict.fromkeys((row.model, row.data) for row in rows):
        some = [row for row in rows if (row.model, row.data) == (model, data)]
        clean = next((row for row in some if row.attack == CLEAN), None)
        if clean is None:
            continue
        threats = dict.fromkeys(row.threat for row in some if row.attack != CLEAN and row.threat)
        cleans = {clean.cover: clean}
        for threat in threats or {"": None}:
            of_threat = tuple(row for row in some if row.attack != CLEAN and row.threat in (threat, ""))
            cover = _usual_cover(of_threat)
            if cover not in cleans and (part := clean.only(cover)) is not None:
                cleans[cover] = part
            yield Entry(model, data, threat, cleans.get(cover, clean), of_threat)


def _usual_cover(rows: Sequence[Row]) -> Slices:
    """The images that most attacks have seen; of several such sets the larger one."""
    counts = Counter(row.cover for row in rows if not row.error)
    return max(counts, key=lambda cover: (counts[cover], sum(stop - start for start, stop in cover)), default=())
