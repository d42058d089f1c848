"""The nuclear ball: projection against scaling an l2 attack, and against Frank-Wolfe; the group-nuclear ball."""

from __future__ import annotations

from collections.abc import Iterator

from book import ROUNDING, Book, Verdict, judged, points, table
from from_peers import ROBUST_NETS
from trials import NETS, Trial, short

from art_lowrank.record import JSON

TITLE = "Nuclear balls"
RANKS: tuple[int | str, ...] = (3, "full")


def nuclear(net: str, n: int, rank: int | str, attack: str = "lowrank_pgd", **changes: JSON) -> Trial:
    return Trial(net, attack, {"eps": 1.0, "norm": "nuc", "rank": rank, "steps": 20, **changes}, n)


def frank_wolfe(net: str, n: int, rank: int | str) -> Trial:
    return nuclear(net, n, rank, method="frank-wolfe")


def scaled(net: str, n: int) -> Trial:
    return nuclear(net, n, 3, "lowrank_pgd, scaled to the nuclear ball", l2_eps=0.5)


def grouped(net: str, n: int) -> Trial:
    return nuclear(net, n, "full", norm="group-nuc", tile=4, method="frank-wolfe")


def trials(n: int) -> Iterator[Trial]:
    for net in NETS:
        yield from (way(net, n, rank) for rank in RANKS for way in (nuclear, frank_wolfe))
        yield from (scaled(net, n), grouped(net, n))


def verdicts(book: Book, n: int) -> list[Verdict]:
    return [
        judged(
            "nuclear ball 1.0, rank 3: on average at least 5 points below the l2 attack scaled into the ball",
            lambda: _below(book, n),
        ),
        judged(
            "nuclear ball 1.0, rank 3 and full: Frank-Wolfe on average at most 1 point weaker than projection",
            lambda: _within(book, n),
        ),
        judged(
            "nuclear and group-nuclear balls: box exact, norm after it at most the radius (1 + 1e-6)",
            lambda: _excess(book, n),
        ),
    ]


def _below(book: Book, n: int) -> tuple[str, str, bool]:
    mean = book.mean_difference((nuclear(net, n, 3), scaled(net, n)) for net in ROBUST_NETS)
    return *points(mean), mean.value <= -0.05 + ROUNDING


def _within(book: Book, n: int) -> tuple[str, str, bool]:
    """The worse of the two ranks."""
    means = {rank: book.mean_difference((frank_wolfe(net, n, rank), nuclear(net, n, rank)) for net in ROBUST_NETS)
             for rank in RANKS}  # fmt: skip
    rank, worst = max(means.items(), key=lambda item: item[1].value)
    text, interval = points(worst)
    return f"worse {text} (rank {rank})", interval, worst.value <= 0.01 + ROUNDING


def _excess(book: Book, n: int) -> tuple[str, str, bool]:
    ours = [way(net, n, rank) for net in NETS for rank in RANKS for way in (nuclear, frank_wolfe)]
    trials = [*ours, *(grouped(net, n) for net in NETS)]
    excess = max(book.number(trial, "excess") for trial in trials)
    boxed = all(book.record(trial).values["in_box"] is True for trial in trials)
    return f"box {'exact' if boxed else 'LEFT'}, norm/radius - 1 at most {excess:.1e}", "", excess <= 1e-6 and boxed


def details(book: Book, n: int) -> list[str]:
    def row(net: str) -> list[str]:
        ours = [way(net, n, rank) for rank in RANKS for way in (nuclear, frank_wolfe)]
        accuracies = [f"{100 * book.accuracy(trial):.1f}" for trial in (*ours, scaled(net, n), grouped(net, n))]
        differences = [book.difference(nuclear(net, n, 3), scaled(net, n)).points(2)]
        differences += [book.difference(frank_wolfe(net, n, r), nuclear(net, n, r)).points(2) for r in RANKS]
        gaps = [trial for trial in (*ours, grouped(net, n)) if "frank-wolfe" in trial.settings.values()]
        gap = [f"{book.number(trial, 'median_gap'):.3g}" for trial in gaps]
        excess = [f"{book.number(way(net, n), 'excess'):.1e}" for way in (scaled, grouped)]
        return [short(net), *accuracies, *differences, *gap, *excess]

    head = ["net", "r=3", "r=3 FW", "full", "full FW", "l2 scaled, r=3", "group FW", "r=3 - scaled"]
    head += ["FW - projection, r=3", "full", "median gap: r=3", "full", "group"]
    head += ["scaled: norm/radius - 1", "group"]
    lines = ["Radius 1.0 (sum over channels), 20 gradients; FW is Frank-Wolfe, gap its median duality gap.", ""]
    return lines + table(head, map(row, NETS))
