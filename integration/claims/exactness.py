"""`exact_rank=True`: rank, box and budget of what is left, and what it costs in strength."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from book import ROUNDING, Book, Verdict, judged, percent, points, table
from trials import NETS, Trial, l2, short

TITLE = "Exact rank"
STEPS = (10, 20)
SHARES = {"tail_0.01": ("1e-2", 0.99), "tail_0.001": ("1e-3", 0.93)}  # of images, at least
WITHIN, EXCESS = 0.005, 1e-6


def trials(n: int) -> Iterator[Trial]:
    for net in NETS:
        yield from (trial for steps in STEPS for trial in pair(net, n, steps))


def pair(net: str, n: int, steps: int) -> tuple[Trial, Trial]:
    """With and without."""
    return l2(net, n, steps=steps, exact_rank=True), l2(net, n, steps=steps)


def verdicts(book: Book, n: int) -> list[Verdict]:
    cells = [(net, steps) for net in NETS for steps in STEPS]
    return [
        *(
            judged(
                f"exact rank 3: sigma_4 / sigma_1 at most {limit} for {100 * least:g} % of the images of each net",
                _share(book, n, cells, name, least),
            )
            for name, (limit, least) in SHARES.items()
        ),
        judged("exact rank 3: within 0.5 point of the attack without it, each net", _difference(book, n, cells)),
        judged("exact rank 3: box exact, norm at most eps (1 + 1e-6)", _budget(book, n, cells)),
    ]


def _share(
    book: Book, n: int, cells: list[tuple[str, int]], name: str, least: float
) -> Callable[[], tuple[str, str, bool]]:
    def judge() -> tuple[str, str, bool]:
        shares = {cell: book.share(pair(cell[0], n, cell[1])[0], name) for cell in cells}
        (net, steps), worst = min(shares.items(), key=lambda item: item[1].value)
        text, interval = percent(worst)
        return f"worst {text} ({short(net)}, N={steps})", interval, worst.value >= least - ROUNDING

    return judge


def _difference(book: Book, n: int, cells: list[tuple[str, int]]) -> Callable[[], tuple[str, str, bool]]:
    def judge() -> tuple[str, str, bool]:
        each = {cell: book.difference(*pair(cell[0], n, cell[1])) for cell in cells}
        (net, steps), worst = max(each.items(), key=lambda item: abs(item[1].value))
        text, interval = points(worst)
        return f"largest {text} ({short(net)}, N={steps})", interval, abs(worst.value) <= WITHIN + ROUNDING

    return judge


def _budget(book: Book, n: int, cells: list[tuple[str, int]]) -> Callable[[], tuple[str, str, bool]]:
    def judge() -> tuple[str, str, bool]:
        exact = [pair(net, n, steps)[0] for net, steps in cells]
        boxed = all(book.record(trial).values["in_box"] is True for trial in exact)
        excess = max(book.number(trial, "excess") for trial in exact)
        return f"box {'exact' if boxed else 'LEFT'}, norm/eps - 1 at most {excess:.1e}", "", boxed and excess <= EXCESS

    return judge


def details(book: Book, n: int) -> list[str]:
    def row(net: str, steps: int) -> list[str]:
        exact, plain = pair(net, n, steps)
        shares = [percent(book.share(trial, name))[0] for trial in (exact, plain) for name in SHARES]
        accuracies = [f"{100 * book.accuracy(trial):.1f}" for trial in (exact, plain)]
        excess = f"{book.number(exact, 'excess'):.1e}"
        return [f"{short(net)}, N={steps}", *accuracies, book.difference(exact, plain).points(2), *shares, excess]

    head = ["net", "robust, exact", "robust, plain", "difference", "exact: tail <= 1e-2", "<= 1e-3"]
    head += ["plain: tail <= 1e-2", "<= 1e-3", "exact: norm/eps - 1"]
    lines = ["Tail: singular value 4 of the perturbation left after the box, over the first; worst channel.", ""]
    rows = [row(net, steps) for net in NETS for steps in STEPS]
    return lines + table(head, [*rows, *(_together(book, n, steps) for steps in STEPS)])


def _together(book: Book, n: int, steps: int) -> list[str]:
    """The shares over the images of all nets; the differences averaged."""
    pairs = [pair(net, n, steps) for net in NETS]
    accuracies = [f"{100 * sum(map(book.accuracy, column)) / len(column):.1f}" for column in zip(*pairs, strict=True)]
    columns = [(column, name) for column in zip(*pairs, strict=True) for name in SHARES]
    counts = [sum(book.flags(trial, name).sum() for trial in column) for column, name in columns]
    shares = [f"{100 * count / (n * len(pairs)):.1f} %" for count in counts]
    excess = max(book.number(exact, "excess") for exact, _ in pairs)
    return [f"all five, N={steps}", *accuracies, book.mean_difference(pairs).points(2), *shares, f"{excess:.1e}"]
