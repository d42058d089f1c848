"""Writes the section between its own markers of the README from the records: `--check` only compares."""

from __future__ import annotations

import beside  # noqa: F401
import training_readme
from warm_table import RESULTS, costs, reported, table, targets, tasks, watches

from art_lowrank.record import Record

README = training_readme.README
START = (
    "<!-- warm start: written by integration/warm_start/warm_readme.py from integration/results/warm_start.jsonl -->"
)
END = "<!-- end of warm start -->"

MNIST = """
A CNN of 166,406 parameters on 8,000 MNIST images, 8 epochs of Adam; every contender's learning rate, step (in radii)
and reset of the store were tuned on 2,000 other images with one seed, then seeds 0, 1, 2. The radius rises over the
first 30 % of the steps for all of them. Gradients are those an image in all epochs, the weights' own included, time is
process time beside PGD-7's. In `shifted` an image is moved by up to 4 pixels each time it is seen.
Clean accuracy on 2,000 test images, robust under {judge}; intervals are 95 %, paired.
"""
CIFAR = """
`cifar10_resnet3b_linf_adv`, a net that others trained at 4/255, trained on for 10 epochs of SGD on 7,000 CIFAR-10
images with crops and flips; 1,000 others to tune on, clean accuracy on 3,000 test images, robust under {judge}.
At 16/255 PGD-7 was not run, and one of the three nets of `fast` ended up answering one class.
"""

READING = """
In short: where one step from a random start is not enough (MNIST, CIFAR-10 at 16/255), a step from a stored start gains
much; on MNIST it comes near PGD-7 for a quarter of its gradients. While images stay where they are, the low-rank part
is all that needs storing of a perturbation: at rank 3 (l2) and 5 (l_inf) it is within the noise of the whole. On
shifted images rank 5 loses points to whole perturbations, and more if it is not moved with the image. At 8/255, where
fast training of this net does not break down, the warm start gains nothing, moved or not. Larger nets and longer
schedules were not tried.
"""
WATCH = """
The watch over catastrophic overfitting, on 256 images that were not trained on; MNIST, l_inf 0.3, seeds 0, 1, 2, rate
0.004, steps of 0.75. `forgets` empties its store every epoch, which is fast training, and `mended` is the same with
`fall_back=True`. Robust on 1,000 images to tune on, 20 gradients; points and percent.
"""


def section(records: list[Record]) -> str:
    """The Markdown between the markers: a pure function of the records."""
    found, lines = tasks(records), ["## Warm starts, measured"]
    for start, words in (("mnist", MNIST), ("cifar10", CIFAR)):
        chosen = {name: rows for name, rows in found.items() if name.startswith(start)}
        if chosen:
            judge = next(iter(next(iter(chosen.values())).values())).judge
            lines.append(words.format(judge=judge))
            for name, rows in chosen.items():
                lines += [f"{name}:\n", *table(rows), ""]
    lines += ["What was aimed at, and other differences in robust accuracy:", ""]
    lines += [*targets(found), *reported(found), READING, WATCH.lstrip(), *watches(records), ""]
    lines += ["What it costs, as ratios of process times on one thread:", ""]
    return "\n".join([*lines, *costs(records)])


def written(readme: str, text: str) -> str:
    """The README with the text between this section's markers."""
    return training_readme.written(readme, text, START, END)


if __name__ == "__main__":
    training_readme.command(__doc__, RESULTS, section, START, END)
