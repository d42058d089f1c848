"""What makes a number doubtful. Every flag stands beside the number it doubts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.remarks import MEANINGS, kind_of
from art_lowrank.evaluate.report.curves import at_radii
from art_lowrank.evaluate.report.order import ENSEMBLE, ITERATIVE, LOW_RANK, ONE_STEP, eps_of, variant_of
from art_lowrank.evaluate.report.ranking import SURE, holm, strongest
from art_lowrank.evaluate.report.read import Wanted
from art_lowrank.evaluate.rows import Row
from art_lowrank.evaluate.threat import NUMBERS, ROUNDING, SLACK
from art_lowrank.statistics import mcnemar, wilson

OUTSIDE = "broken outside the ball"
MANY = 100  # images, below which a plateau is chance
FLAT, WIDER = 0.01, 1.5  # a plateau: less than a point lost while eps grew by half
SPENT = 0.9  # of the radius, or the attack is said not to have used it

KINDS = {
    **MEANINGS,
    "not monotone in rank": "more rank can only help an attack; the higher rank was not searched well",
    "not monotone in steps": "more steps can only help an attack that keeps its best; it may have left the best again",
    "not monotone in eps": "a larger ball contains the smaller one; gradients may be masked, or the step size is wrong",
    "weaker than a weaker attack": "one step, a black box or a single attack broke more than this one, which ought to "
    "break more: it was not run long or well enough, or gradients are masked",
    "plateau": "accuracy stopped falling while eps grew: masked gradients look like that",
    "more than chance where all is allowed": "the ball holds the same grey image for all, so an attack must succeed: "
    "it fails for reasons of its own",
    "over the budget": "images were moved too far",
    "budget not used": "no image was moved as far as allowed, although some hold: a larger step may break more",
    "failed": "what could not be run is not in the worst case",
    "not finished": "the worst case is over what is there; the same command of art-lowrank evaluate goes on "
    "(of a plan that is not wanted any more delete the file in the folder `asked`)",
    "no strong attack": "no iterated attack of full rank was run, so robust accuracy is lower than this",
    "other images": "it has not seen the images that the others have seen, so it is not in the worst case",
    "several versions": "its cells were run with different versions of packages or code",
}


class Flag(NamedTuple):
    """A doubt: what kind of, and what was seen."""

    kind: str
    seen: str

    @property
    def text(self) -> str:
        """What was seen, and the kind where that does not say it."""
        return self.seen if self.kind in self.seen else f"{self.kind}: {self.seen}"

    @property
    def meaning(self) -> str:
        """What it means for the number."""
        return KINDS.get(self.kind, "")


def flags_in(entries: Sequence[Entry], left: Sequence[Wanted] = ()) -> dict[Row, list[Flag]]:
    """The flags of every row. A model's own, seen on clean images, are its clean row's; `left` are missing cells."""
    found: dict[Row, list[Flag]] = defaultdict(list)
    for entry in entries:
        if entry.clean not in found:
            found[entry.clean] = [*map(_remark, entry.clean.doubts), *_whole(entry.clean, left)]
        for row in entry.rows:
            found[row] += _alone(entry, row)
        for row, flag in (*_between(entry), *_too_weak(entry)):
            found[row].append(flag)
    for row, flag in _along_eps(entries):
        found[row].append(flag)
    return {row: list(dict.fromkeys(flags)) for row, flags in found.items()}


def entry_flags(entry: Entry, flags: Mapping[Row, Sequence[Flag]]) -> list[Flag]:
    """What doubts a model's worst case: its own flags and those of all attacks."""
    return list(dict.fromkeys(flag for row in (entry.clean, *entry.rows) for flag in flags.get(row, ())))


def _alone(entry: Entry, row: Row) -> Iterator[Flag]:
    """What one attack's own records tell."""
    yield from map(_remark, row.notes)
    yield from _whole(row, ())
    if not row.done:
        return
    if not row.error and row not in entry.counted:
        seen, others = (", ".join(f"{start} to {stop}" for start, stop in one.cover) for one in (row, entry.clean))
        yield Flag("other images", f"images {seen}, the others {others}")
    yield from _budget(row)
    yield from _all_allowed(entry, row)


def _remark(text: str) -> Flag:
    return Flag(kind_of(text), text)


def _whole(row: Row, left: Sequence[Wanted]) -> Iterator[Flag]:
    """Whether all was run that should be, by one and the same code."""
    if row.error:
        yield Flag("failed", f"failed: {row.error}")
    if count := sum(asked.model == row.records[0].model and asked.images.startswith(_data(row)) for asked in left):
        yield Flag("not finished", f"{count} of its cells are not finished")
    found = {tuple(sorted(record.versions.items())) for record in row.done}
    if len(found) > 1:
        changed = sorted({name for one, other in combinations(found, 2) for name, _ in set(one) ^ set(other)})
        yield Flag("several versions", f"{', '.join(changed)} changed between its cells")


def _data(row: Row) -> str:
    return row.records[0].data.rpartition("[")[0] + "["


def _too_weak(entry: Entry) -> Iterator[tuple[Row, Flag]]:
    """A worst case over attacks of which none is known to be strong."""
    levels = {variant_of(row).level for row in entry.counted}
    if (best := strongest(entry)) is not None and max(levels) < ITERATIVE:
        words = "of low rank" if levels == {LOW_RANK} else "weak"
        yield best, Flag("no strong attack", f"all {len(entry.counted)} runs are {words}")


def _budget(row: Row) -> Iterator[Flag]:
    norm, eps = row.threat.split()[0], eps_of(row.threat.split()[1])
    reached = [far for record in row.done if isinstance(far := record.values.get("distance_max"), int | float)]
    if not reached:
        return
    if max(reached) > eps * (1 + SLACK) + ROUNDING:
        yield Flag("over the budget", f"an image was moved by {max(reached):.4g}, allowed are {eps:.4g}")
    elif norm in NUMBERS and max(reached) < SPENT * eps and row.robust.any():
        yield Flag("budget not used", f"images were moved by {max(reached):.4g} at most, allowed are {eps:.4g}")


def _all_allowed(entry: Entry, row: Row) -> Iterator[Flag]:
    """In a ball that holds the grey image the best attack leaves the images of one class at most."""
    norm, eps = row.threat.split()[0], eps_of(row.threat.split()[1])
    values = [record.values for record in entry.clean.done]
    counts = [count for value in values if isinstance(count := value.get("most_common"), int)]
    pixels = _pixels(entry.clean)
    if norm not in NUMBERS or not pixels or len(counts) < len(values) or variant_of(row).level == LOW_RANK:
        return
    if eps < 0.5 * pixels ** (1 / NUMBERS[norm]):
        return
    common = sum(counts) / max(1, len(entry.clean.robust))
    if row.accuracy.low > common:
        seen = f"{row.accuracy.percent()} hold where every image may become grey; one class has {100 * common:.0f} %"
        yield Flag("more than chance where all is allowed", seen)


def _pixels(clean: Row) -> int:
    """Numbers an image has, or 0 where the records do not say."""
    shape = clean.done[0].values.get("shape") if clean.done else None
    return math.prod(size if isinstance(size, int) else 0 for size in shape) if isinstance(shape, list) else 0


def _between(entry: Entry) -> Iterator[tuple[Row, Flag]]:
    """Attacks that leave more images than one that ought to be weaker, by more than noise; all together by Holm."""
    yield from _held_back([row for row in entry.counted if not row.after], ("rank", "steps", ""))


def _held_back(rows: Sequence[Row], along: Sequence[str]) -> Iterator[tuple[Row, Flag]]:
    """Every row against the strongest of those that it ought to beat, in one of these ways."""
    rows = [row for row in rows if not any(kind_of(note) == OUTSIDE for note in row.notes)]
    tests = []
    for strong in rows:
        for way in along:
            weaker = [row for row in rows if row.cover == strong.cover and _ought(row, strong) == way]
            if weaker:
                weak = min(weaker, key=lambda row: int(row.robust.sum()))
                tests.append((strong, weak, way, held_back(weak, strong)))
    raised = holm(np.array([p for *_, p in tests]))
    for (strong, weak, way, _), p in zip(tests, raised, strict=True):
        if p < SURE:
            kind = f"not monotone in {way}" if way else "weaker than a weaker attack"
            yield strong, Flag(kind, _against(weak, strong, float(p)))


def _ought(weak: Row, strong: Row) -> str | None:
    """In what the one ought to break less: rank, steps or eps, or "" by its kind; None if it need not."""
    one, other = variant_of(weak), variant_of(strong)
    if along := one.weaker_in(other):
        return along
    return "" if weak.threat == strong.threat and _kinds_differ(one.level, other.level) else None


def _kinds_differ(weak: int, strong: int) -> bool:
    """How a low rank and a whole step, or another search, compare is not known beforehand."""
    return weak < strong and (strong == ENSEMBLE or (strong == ITERATIVE and weak == ONE_STEP))


def held_back(weak: Row, strong: Row) -> float:
    """McNemar's p-value where the stronger attack leaves more images than the weaker one; else 1."""
    if strong.cover != weak.cover or strong.robust.sum() <= weak.robust.sum():
        return 1.0
    return mcnemar(strong.robust, weak.robust)


def _against(weak: Row, strong: Row, p: float) -> str:
    more = int(strong.robust.sum()) - int(weak.robust.sum())
    return f"{more} of {len(strong.robust)} images more hold than against {weak.attack} at {weak.threat} (p = {p:.2g})"


def _along_eps(entries: Sequence[Entry]) -> Iterator[tuple[Row, Flag]]:
    """What shows only between radii: of separate attacks, or inside one curve."""
    for model, data in dict.fromkeys((entry.model, entry.data) for entry in entries):
        some = [entry for entry in entries if (entry.model, entry.data) == (model, data)]
        rows = [row for entry in some for row in entry.counted if not row.after]
        yield from _held_back(rows, ("eps",))
        yield from _plateaus(some[0].clean, rows)


def _plateaus(clean: Row, rows: Iterable[Row]) -> Iterator[tuple[Row, Flag]]:
    """Accuracy that fell, and then stays although eps grows on."""
    for series in at_radii(list(rows)):
        points, n = series.points, len(clean.robust)
        last = points[-1]
        before = [point for point in points if point.eps <= last.eps / WIDER + 1e-12]
        if n < MANY or not before or abs(before[-1].share - last.share) >= FLAT:
            continue
        now = wilson(round(last.share * n), n)
        if now.high < clean.accuracy.low and now.low > 1.5 / classes(clean):
            steps = (f"{100 * share:.1f} % at eps {eps:.4g}" for eps, share in (before[-1], last))
            yield series.row, Flag("plateau", ", ".join(steps))


def classes(clean: Row) -> float:
    """How many classes the model tells apart; many if its record does not say."""
    found = [count for record in clean.done if isinstance(count := record.values.get("classes"), int)]
    return float(max(found, default=1000))
