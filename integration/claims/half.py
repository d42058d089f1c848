"""Search in half precision, verified in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from book import ROUNDING, Book, Verdict, judged, points, table
from trials import NETS, Trial, l2, short

TITLE = "Half precision"
PRECISIONS = ("bf16", "fp16")
COST_IMAGES, REPEATS = 100, 5


def lowered(net: str, n: int, precision: str) -> Trial:
    return l2(net, n, steps=10, precision=precision)


def full(net: str, n: int) -> Trial:
    return l2(net, n, steps=10)


def cost(net: str, n: int, precision: str) -> Trial:
    settings = {**lowered(net, n, precision).settings, "repeats": REPEATS}
    return Trial(net, "cost of lowrank_pgd", settings, min(n, COST_IMAGES))


def trials(n: int) -> Iterator[Trial]:
    for net in NETS:
        yield full(net, n)
        for precision in PRECISIONS:
            yield from (lowered(net, n, precision), cost(net, n, precision))


def verdicts(book: Book, n: int) -> list[Verdict]:
    return [
        judged(f"{precision} search, 10 gradients: within 0.3 point of float32, each net", _within(book, n, precision))
        for precision in PRECISIONS
    ]


def _within(book: Book, n: int, precision: str) -> Callable[[], tuple[str, str, bool]]:
    def judge() -> tuple[str, str, bool]:
        each = {net: book.difference(lowered(net, n, precision), full(net, n)) for net in NETS}
        net, worst = max(each.items(), key=lambda item: abs(item[1].value))
        text, interval = points(worst)
        return f"largest {text} ({short(net)})", interval, abs(worst.value) <= 0.003 + ROUNDING

    return judge


def details(book: Book, n: int) -> list[str]:
    def row(net: str, precision: str) -> list[str]:
        trial, ratio = lowered(net, n, precision), book.record(cost(net, n, precision)).values
        accuracies = [f"{100 * book.accuracy(one):.1f}" for one in (trial, full(net, n))]
        disputed = [f"{book.number(trial, name):.0f}" for name in ("claimed", "refuted")]
        times = f"{ratio['median_ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        return [
            f"{short(net)}, {precision}",
            *accuracies,
            book.difference(trial, full(net, n)).points(2),
            *disputed,
            times,
        ]

    head = ["net", "robust", "robust, float32", "difference", "claimed", "refuted", "CPU time / float32"]
    lines = [
        "eps 0.5, rank 3, 10 gradients. Claimed: broken in half precision; refuted: what float32 did not",
        "confirm and was attacked again. Times on this CPU say nothing of a GPU.",
        "",
    ]
    return lines + table(head, (row(net, precision) for net in NETS for precision in PRECISIONS))
