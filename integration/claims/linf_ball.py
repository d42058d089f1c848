"""l_inf: sign patterns against alternating projections, rank by rank."""

from __future__ import annotations

from collections.abc import Iterator

from book import Book, Verdict, judged, points, table
from from_peers import ROBUST_NETS
from trials import NETS, STANDARD_IMAGES, STANDARD_NET, Trial, short

from art_lowrank.record import JSON
from art_lowrank.statistics import Interval

TITLE = "l_inf"
RANKS = (1, 3, 6, 10, 16, 24)
SWITCH = 32 / 5  # patterns up to here
PLANS = {**dict.fromkeys(NETS, 8 / 255), STANDARD_NET: 2 / 255}


def linf(net: str, n: int, rank: int | str, attack: str = "lowrank_pgd", **changes: JSON) -> Trial:
    n = min(n, STANDARD_IMAGES) if net == STANDARD_NET else n
    return Trial(net, attack, {"eps": PLANS[net], "norm": "inf", "rank": rank, "steps": 20, **changes}, n)


def four_rounds(net: str, n: int) -> Trial:
    """What the default is promised to beat."""
    return linf(net, n, 3, "lowrank_pgd, rounds of alternating", rounds=4, loss="margin")


def trials(n: int) -> Iterator[Trial]:
    for net in PLANS:
        yield from (linf(net, n, 3), four_rounds(net, n), linf(net, n, "full"))
        yield linf(net, n, 3, method="clipped-latent")
        yield from (linf(net, n, rank, method=method) for rank in RANKS for method in ("pattern", "alternating"))


def low_rank(net: str, n: int) -> list[Trial]:
    """All trials of a net that promise a rank."""
    ranked = [linf(net, n, rank, method=method) for rank in RANKS for method in ("pattern", "alternating")]
    return [linf(net, n, 3), four_rounds(net, n), *ranked]


def verdicts(book: Book, n: int) -> list[Verdict]:
    return [
        judged(
            "l_inf 8/255, rank 3: on average at least 3 points below alternating projection x4 with the margin",
            lambda: _below(book, n),
        ),
        judged(
            "l_inf 8/255, patterns up to rank H/5 = 6, alternating x10 above: on average the better, every rank",
            lambda: _switch(book, n),
        ),
        judged("l_inf: rank of the factors exact, no pixel beyond eps (1 + 1e-6), box exact", lambda: _budget(book, n)),
    ]


def _below(book: Book, n: int) -> tuple[str, str, bool]:
    mean = book.mean_difference((linf(net, n, 3), four_rounds(net, n)) for net in ROBUST_NETS)
    return *points(mean), mean.value <= -0.03


def on_average(book: Book, n: int, rank: int) -> Interval:
    """Patterns less alternating projections, the mean of the robust nets."""
    return book.mean_difference(
        (linf(net, n, rank, method="pattern"), linf(net, n, rank, method="alternating")) for net in ROBUST_NETS
    )


def _switch(book: Book, n: int) -> tuple[str, str, bool]:
    """At every rank the method of the rule is no weaker than the other; the interval is that of the closest rank."""
    losses = {}
    for rank in RANKS:
        gain, low, high = on_average(book, n, rank)
        losses[rank] = Interval(gain, low, high) if rank <= SWITCH else Interval(-gain, -high, -low)
    rank, worst = max(losses.items(), key=lambda item: item[1].value)
    text, interval = points(worst)
    return f"rule less other: worst {text} (rank {rank})", interval, worst.value <= 0


def _budget(book: Book, n: int) -> tuple[str, str, bool]:
    every = [trial for net in PLANS for trial in low_rank(net, n)]
    tail, excess = (max(book.number(trial, name) for trial in every) for name in ("largest_tail_of_factors", "excess"))
    boxed = all(book.record(trial).values["in_box"] is True for trial in every)
    miss = max(book.number(trial, "largest_miss_of_factors") for trial in every)
    met = boxed and tail <= 1e-9 and excess <= 1e-6 and miss <= 1e-6
    text = f"sigma_r+1 / sigma_1 {tail:.0e}, largest pixel/eps - 1 {excess:.0e}"
    return f"{text}, box {'exact' if boxed else 'LEFT'}, images equal factors to {miss:.0e}", "", met


def details(book: Book, n: int) -> list[str]:
    lines = [
        f"{len(RANKS)} ranks, 20 gradients: robust accuracy, patterns / alternating x10 (difference in points with",
        f"interval); 8/255, {STANDARD_NET} at 2/255 on its first {min(n, STANDARD_IMAGES)} images.",
        "",
    ]

    def cell(net: str, rank: int) -> str:
        ours, other = (linf(net, n, rank, method=method) for method in ("pattern", "alternating"))
        both = " / ".join(f"{100 * book.accuracy(trial):.1f}" for trial in (ours, other))
        return f"{both} ({book.difference(ours, other).points().replace(' points', '')})"

    rows = [[short(net), *(cell(net, rank) for rank in RANKS), f"{100 * book.accuracy(linf(net, n, 'full')):.1f}"]
            for net in PLANS]  # fmt: skip
    rows.append(["mean of the robust nets", *(on_average(book, n, rank).points() for rank in RANKS), ""])
    lines += table(["net", *(f"r={rank}" for rank in RANKS), "dense"], rows)
    return lines + _at_three(book, n)


def _at_three(book: Book, n: int) -> list[str]:
    def row(net: str) -> list[str]:
        default, four, latent = linf(net, n, 3), four_rounds(net, n), linf(net, n, 3, method="clipped-latent")
        accuracies = [f"{100 * book.accuracy(trial):.1f}" for trial in (default, four, latent)]
        differences = [book.difference(default, other).points(2) for other in (four, latent)]
        return [short(net), *accuracies, *differences, f"{book.number(latent, 'median_tail'):.2f}"]

    head = ["net, rank 3", "default", "alternating x4, margin", "clipped latent (not of low rank)"]
    head += ["default - x4", "default - latent", "latent: median singular value 4 over first"]
    return table(head, map(row, PLANS))
