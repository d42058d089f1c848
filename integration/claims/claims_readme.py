"""Writes the section between its own markers of the README from the records: `--check` only compares.

Where the README has no markers, the section is printed, markers included.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import curves
from book import Book
from promises import caption, targets, verdicts

from art_lowrank.record import Record, read

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "integration" / "results" / "claims.jsonl"
START = "<!-- claims: written by integration/claims/claims_readme.py from integration/results/claims.jsonl -->"
END = "<!-- end of claims -->"
N = 1000


def section(records: list[Record], n: int = N) -> str:
    """The Markdown between the markers: a pure function of the records."""
    book = Book(records)
    lines = [
        "## Curves, exact rank, other norms",
        "",
        "What was promised, measured on the four nets above and on cnn_mmr_universal, which nothing was ever tuned on:",
        '"on average" is over the four, "each net" over the five. N is the gradients an image.',
        *caption(book, n),
        "",
        *targets(verdicts(book, n)),
        "Robust accuracy in percent along one `rank_curve` (steps=20, l2, eps 0.5), the gradients an image it took,",
        "and the smallest rank within one point of full rank:",
        "",
        *curves.compact(book, n),
        "Every net, rank and precision: `integration/claims/README.md`.",
    ]
    return "\n".join(lines)


def marked(text: str) -> bool:
    return START in text and END in text


def written(readme: str, text: str) -> str:
    """The README with the text between its markers."""
    before, rest = readme.split(START)
    return f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file of the records")
    parser.add_argument("--n", type=int, default=N, help="images the records were made with")
    parser.add_argument("--check", action="store_true", help="exit 1 where the README says something else")
    arguments = parser.parse_args()
    text, readme = section(read(arguments.results), arguments.n), README.read_text(encoding="utf-8")
    if not marked(readme):
        print(f"{START}\n\n{text}\n\n{END}")
    elif not arguments.check:
        README.write_text(written(readme, text), encoding="utf-8")
    elif written(readme, text) != readme:
        sys.exit("README.md does not say what the records say; run integration/claims/claims_readme.py")


if __name__ == "__main__":
    main()
