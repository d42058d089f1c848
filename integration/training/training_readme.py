"""Writes the section between its own markers of the README from the records: `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from training_table import CIFAR, RESULTS, Key, Row, autoattack, costs, rows, table, targets

from art_lowrank.record import Record, read

README = Path(__file__).resolve().parents[2] / "README.md"
START = "<!-- training: written by integration/training/training_readme.py from integration/results/training.jsonl -->"
END = "<!-- end of training -->"


FROM_SCRATCH = """
LeNet5 on 8,000 MNIST images from scratch, 8 epochs of SGD with momentum 0.9. Of six learning rates each contender has
the one that was best on 2,000 other images with one seed; then seeds 0, 1, 2. Clean accuracy on 2,000 test images,
robust accuracy under {judge}.
Means over seeds; intervals are 95 %, paired over images. cond(W) is the largest of the low-rank layers at the end.
"""
PARTS = """
What each part is worth can be read off the rows: orthonormal factors (vanilla against the others), the choice of ranks
(uniform ranks against the others), the clamp (max_cond 1.5 against no clamp) and the penalty. Conditioning by itself
does not make a net robust: the dense net has no bound at all.
"""
TUNED = """
The robust CIFAR-10 net `resnet4b_linf_adv` after truncation, 4 epochs of adversarial training on 7,000 images; the
learning rate of three was chosen on 1,000 others. Robust accuracy under {judge}.
"""


def section(records: list[Record]) -> str:
    """The Markdown between the markers: a pure function of the records."""
    lenet, cifar = rows(records), rows(records, CIFAR)
    lines = ["## Low-rank training, measured"]
    if lenet:
        lines += [FROM_SCRATCH.format(judge=judge(lenet)), *table(lenet), "", *map(str, targets(lenet))]
        lines += [*autoattack(records), PARTS]
    if cifar:
        lines += [TUNED.format(judge=judge(cifar)), *table(cifar), ""]
    return "\n".join([*lines, "What it costs, as ratios of process times on one thread:", "", *costs(records)])


def judge(found: dict[Key, Row]) -> str:
    return next(iter(found.values())).judge


def written(readme: str, text: str, start: str = START, end: str = END) -> str:
    """The README with the text between two markers."""
    before, rest = readme.split(start)
    return f"{before}{start}\n\n{text}\n\n{end}{rest.split(end)[1]}"


def command(
    about: str | None, results: Path, text_of: Callable[[list[Record]], str], start: str = START, end: str = END
) -> None:
    """Write a section of the README from records, or with `--check` only compare."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--results", type=Path, default=results, help="JSONL file of the records")
    parser.add_argument("--check", action="store_true", help="exit 1 where the README says something else")
    arguments = parser.parse_args()
    text, readme = text_of(read(arguments.results)), README.read_text(encoding="utf-8")
    if not arguments.check:
        README.write_text(written(readme, text, start, end), encoding="utf-8")
    elif written(readme, text, start, end) != readme:
        sys.exit(f"README.md does not say what the records say; run {Path(sys.argv[0]).name} without --check")


if __name__ == "__main__":
    command(__doc__, RESULTS, section)
