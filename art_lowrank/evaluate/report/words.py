"""How numbers are written in the page and in the tables."""

from __future__ import annotations

from collections.abc import Sequence

from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.report.chart import milliseconds
from art_lowrank.evaluate.report.flags import Flag
from art_lowrank.evaluate.report.ranking import distance, strongest
from art_lowrank.evaluate.rows import Row
from art_lowrank.statistics import Interval

NONE = "–"  # noqa: RUF001  a dash for what there is not


# what turns the direction of a text, or moves the cursor of a terminal
HIDDEN = dict.fromkeys(
    [
        *(*range(9), 11, 12, *range(14, 32), *range(127, 160)),
        *(0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),
    ],
    "\ufffd",
)


def printable(text: str) -> str:
    """The text without letters that do something."""
    return text.encode("utf-8", "replace").decode().translate(HIDDEN)


def quoted(entry: Entry, flags: Sequence[Flag]) -> str:
    """The sentence, and what makes it doubtful."""
    kinds = ", ".join(dict.fromkeys(flag.kind for flag in flags))
    return sentence(entry) + (f" Doubtful: {kinds}." if kinds else "")


def share(value: Interval) -> str:
    """`62.4 [58.1, 66.5]`, in percent."""
    return value.percent().replace(" %", "")


def accuracy(row: Row | None) -> str:
    """A row's accuracy, in percent, or that there is none."""
    if row is None or not len(row.robust):
        return NONE
    return share(row.accuracy)


def against_strongest(entry: Entry, row: Row) -> str:
    """How many points more than the strongest attack leaves, and whether that is noise."""
    best = strongest(entry)
    if best is None or row not in entry.counted:
        return NONE
    if row is best:
        return "strongest"
    found = distance(row, best)
    return NONE if found is None else str(found)


def seeds(entry: Entry) -> str:
    """How many seeds the attacks were run with: `1 seed`, `1 to 2 seeds`."""
    of: dict[str, set[int | None]] = {}
    for row in entry.counted:
        of.setdefault(row.attack, set()).add(row.seed)
    low, high = min(map(len, of.values())), max(map(len, of.values()))
    return f"{low} to {high} seeds" if low < high else f"{high} seed{'s' * (high > 1)}"


def seed_text(entry: Entry) -> str:
    """`seed 0`, `seeds 0, 1, 2`."""
    found = [str(seed) for seed in dict.fromkeys(row.seed for row in entry.rows) if seed is not None]
    return f"seed{'s' * (len(found) > 1)} {', '.join(found)}" if found else "no attack"


def sentence(entry: Entry) -> str:
    """What can be said of a model, with all it takes to be understood."""
    worst, clean = entry.worst, entry.clean
    if worst is None:
        return f"{entry.model} on {entry.data}: no worst case was found."
    attacks = len({row.attack for row in entry.counted})
    return (
        f"{entry.model} on {entry.data}: {worst.accuracy.percent()} of {len(worst.robust)} images hold within "
        f"{entry.threat} against the worst case of {attacks} attack{'s' * (attacks > 1)} "
        f"({seeds(entry)}); clean accuracy {clean.accuracy.percent()}. 95 % intervals by Wilson."
    )


def time(row: Row) -> str:
    """Milliseconds an image that was attacked."""
    return f"{milliseconds(row):.3g}" if row.seconds else NONE


def name(entry: Entry, row: Row) -> str:
    """The attack, with what else tells it from others."""
    several = len({other.seed for other in entry.rows}) > 1
    more = [f"seed {row.seed}"] if row.seed is not None and (several or row.seed) else []
    more += [f"on survivors of {row.after} before"] if row.after else []
    return row.attack + (f" ({', '.join(more)})" if more else "")
