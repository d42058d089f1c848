"""`use_budget=True` on MNIST: on the nets where it was found, and on two that were never looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from book import Book, Verdict, judged, points, table
from mnist_nets import OWN_NETS
from trials import Trial, l2, short

TITLE = "The whole budget (use_budget)"
ZOO_NETS = ("mnist_cnn_linf_adv", "mnist_cnn_mmr_universal", "mnist_lenet5_linf_adv", "mnist_lenet5_standard")
GROUPS = {"it was not found on": OWN_NETS, "it was found on": ZOO_NETS}


def pair(net: str, n: int) -> tuple[Trial, Trial]:
    """With and without."""
    return l2(net, n, eps=2.0, use_budget=True), l2(net, n, eps=2.0)


def trials(n: int) -> Iterator[Trial]:
    for nets in GROUPS.values():
        yield from (trial for net in nets for trial in pair(net, n))


def verdicts(book: Book, n: int) -> list[Verdict]:
    return [
        judged(f"use_budget less without, MNIST, eps 2.0, rank 3, {len(nets)} nets {name}", _mean(book, n, nets))
        for name, nets in GROUPS.items()
    ]


def _mean(book: Book, n: int, nets: Sequence[str]) -> Callable[[], tuple[str, str, None]]:
    def judge() -> tuple[str, str, None]:
        return *points(book.mean_difference(pair(net, n) for net in nets)), None

    return judge


def details(book: Book, n: int) -> list[str]:
    def row(net: str, group: str) -> list[str]:
        accuracies = [f"{100 * book.accuracy(trial):.1f}" for trial in pair(net, n)]
        shares = [f"{book.number(trial, 'mean_share_of_radius'):.3f}" for trial in pair(net, n)]
        dead = "/".join(f"{book.number(trial, 'dead'):.0f}" for trial in pair(net, n))
        return [f"{short(net)} ({group})", *accuracies, book.difference(*pair(net, n)).points(2), *shares, dead]

    head = ["net", "robust, with", "without", "difference", "mean norm/eps, with", "without", "dead, with/without"]
    return ["20 gradients.", "", *table(head, (row(net, group) for group, nets in GROUPS.items() for net in nets))]
