"""`rank_curve` and `eps_curve` against separate attacks at every rank or radius."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from book import ROUNDING, Book, Verdict, judged, points, table
from trials import NETS, Trial, l2, short

from art_lowrank.statistics import Interval, paired_difference

TITLE = "Curves over rank and radius"
RANKS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32)
RADII = (0.125, 0.25, 0.5, 0.75, 1.0)
PLANS = {"fast": (10, 35, 0.015), "thorough": (20, 65, 0.005)}  # steps, gradients at most, how much weaker at most


def ranks(net: str, n: int, steps: int) -> Trial:
    return Trial(net, "rank_curve", {"eps": 0.5, "norm": 2, "ranks": RANKS, "steps": steps}, n)


def radii(net: str, n: int, steps: int) -> Trial:
    return Trial(net, "eps_curve", {"eps": RADII, "norm": 2, "rank": 3, "steps": steps}, n)


def at_rank(net: str, n: int, rank: float) -> Trial:
    """What the curve is compared with; broken images leave, which changes no outcome."""
    return l2(net, n, rank=int(rank), early_stop=True)


def at_radius(net: str, n: int, eps: float) -> Trial:
    return l2(net, n, eps=eps, early_stop=True)


def trials(n: int) -> Iterator[Trial]:
    for net in NETS:
        yield from (curve(net, n, steps) for steps, *_ in PLANS.values() for curve in (ranks, radii))
        yield from (at_rank(net, n, rank) for rank in RANKS)
        yield from (at_radius(net, n, eps) for eps in RADII)


def verdicts(book: Book, n: int) -> list[Verdict]:
    found = []
    for name, (steps, most, within) in PLANS.items():
        found += [
            judged(f"rank curve, {name}: at most {most} gradients an image on every net", _cost(book, n, steps, most)),
            judged(
                f"rank curve, {name}: on every net and rank at most {100 * within:g} points above a separate attack",
                _worst(book, n, steps, within),
            ),
        ]
    return found


def _cost(book: Book, n: int, steps: int, most: float) -> Callable[[], tuple[str, str, bool]]:
    def judge() -> tuple[str, str, bool]:
        net, worst = max(((net, book.gradients(ranks(net, n, steps))) for net in NETS), key=lambda pair: pair[1])
        interval = f"[{worst.low:.1f}, {worst.high:.1f}]"
        return f"at most {worst.value:.1f} ({short(net)})", interval, worst.value <= most

    return judge


def _worst(book: Book, n: int, steps: int, within: float) -> Callable[[], tuple[str, str, bool]]:
    def judge() -> tuple[str, str, bool]:
        cells = {(net, rank): against(book, ranks(net, n, steps), at_rank(net, n, rank), rank)
                 for net in NETS for rank in RANKS}  # fmt: skip
        (net, rank), worst = max(cells.items(), key=lambda item: item[1].value)
        text, interval = points(worst)
        return f"worst {text} ({short(net)}, rank {rank})", interval, worst.value <= within + ROUNDING

    return judge


def against(book: Book, curve: Trial, separate: Trial, value: float) -> Interval:
    """The curve at a rank or radius less the separate attack: positive where the curve is weaker."""
    return paired_difference(book.robust(curve, f"{value:g}"), book.robust(separate))


def details(book: Book, n: int) -> list[str]:
    cost = "curve's gradients (11 separate attacks with N=20: 220; with dropping of broken images)"
    lines = [f"Rank curve, eps 0.5: robust accuracy in percent (curve less separate attack, points); {cost}.", ""]
    lines += _details(book, n, ranks, at_rank, RANKS, "rank")
    lines += ["The same over eps at rank 3 (5 separate attacks: 100 gradients).", ""]
    return lines + _details(book, n, radii, at_radius, RADII, "eps")


def _details(
    book: Book,
    n: int,
    curve: Callable[[str, int, int], Trial],
    separate: Callable[[str, int, float], Trial],
    values: Sequence[float],
    along: str,
) -> list[str]:
    def row(net: str, name: str, steps: int) -> list[str]:
        trial, others = curve(net, n, steps), [separate(net, n, value) for value in values]
        each = [against(book, trial, other, value) for value, other in zip(values, others, strict=True)]
        cells = [f"{100 * book.accuracy(trial, f'{value:g}'):.1f} ({100 * one.value:+.1f})"
                 for value, one in zip(values, each, strict=True)]  # fmt: skip
        dropping = sum(book.gradients(other).value for other in others)
        cost = f"{book.gradients(trial).value:.1f} ({dropping:.1f})"
        effective = [str(book.record(trial).values["effective_rank"])] if along == "rank" else []
        return [f"{short(net)}, {name}", *cells, cost, *effective]

    head = [f"net, {along}", *(f"{value:g}" for value in values), "gradients"]
    head += ["effective rank"] if along == "rank" else []
    return table(head, (row(net, name, steps) for net in NETS for name, (steps, *_) in PLANS.items()))


def compact(book: Book, n: int) -> list[str]:
    """The thorough curve, as the README shows it."""
    steps = PLANS["thorough"][0]

    def row(net: str) -> list[str]:
        trial = ranks(net, n, steps)
        cells = [f"{100 * book.accuracy(trial, str(rank)):.1f}" for rank in RANKS]
        effective = str(book.record(trial).values["effective_rank"])
        return [short(net), *cells, f"{book.gradients(trial).value:.1f}", effective]

    return table(["net, rank", *map(str, RANKS), "gradients", "effective rank"], map(row, NETS))
