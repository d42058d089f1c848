"""`thorough=True` against the plain attack that drops broken images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from book import Book, Verdict, judged, points, table
from from_peers import ROBUST_NETS
from trials import NETS, Trial, l2, short

TITLE = "Thorough"
RADII = (0.5, 1.0)


def pair(net: str, n: int, eps: float) -> tuple[Trial, Trial]:
    """Thorough, and plain."""
    return l2(net, n, eps=eps, rank=10, thorough=True), l2(net, n, eps=eps, rank=10, early_stop=True)


def trials(n: int) -> Iterator[Trial]:
    for net in NETS:
        yield from (trial for eps in RADII for trial in pair(net, n, eps))


def verdicts(book: Book, n: int) -> list[Verdict]:
    return [judged(f"thorough less plain, eps {eps}, rank 10, mean of the robust nets", _mean(book, n, eps))
            for eps in RADII]  # fmt: skip


def _mean(book: Book, n: int, eps: float) -> Callable[[], tuple[str, str, None]]:
    def judge() -> tuple[str, str, None]:
        text, interval = points(book.mean_difference(pair(net, n, eps) for net in ROBUST_NETS))
        costs = [[book.gradients(trial).value for trial in pair(net, n, eps)] for net in ROBUST_NETS]
        thorough, plain = (sum(cost) / len(costs) for cost in zip(*costs, strict=True))
        return f"{text}, {thorough:.1f} instead of {plain:.1f} gradients", interval, None

    return judge


def details(book: Book, n: int) -> list[str]:
    def row(net: str, eps: float) -> list[str]:
        both = pair(net, n, eps)
        accuracies = [f"{100 * book.accuracy(trial):.1f}" for trial in both]
        costs = [f"{book.gradients(trial).value:.1f}" for trial in both]
        return [f"{short(net)}, eps {eps}", *accuracies, book.difference(*both).points(2), *costs]

    head = ["net", "robust, thorough", "plain", "difference", "gradients, thorough", "plain"]
    return ["Rank 10, 20 gradients.", "", *table(head, (row(net, eps) for net in NETS for eps in RADII))]
