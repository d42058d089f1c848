"""Writes what the records say into two pages: a sentence a claim into README.md, everything into the one beside this.

`--check` only compares. The figure is drawn anew with `--figure`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import perturbation_spectra
from evidence import FULL, ROOT, recorded
from items import ITEMS, told
from study import Missing, Notes, Scale

from art_lowrank.record import Record

README, PAGE = ROOT / "README.md", Path(__file__).with_name("README.md")
FIGURE = ROOT / "integration" / "results" / "spectra.png"
START = "<!-- evidence: written by integration/evidence/evidence_readme.py from integration/results/evidence.jsonl -->"
END = "<!-- end of evidence -->"


def summary(notes: Notes, scale: Scale) -> str:
    """A line a claim."""
    rows = [f"| {item.TITLE} | {item.CLAIM} | {sentence(item, notes, scale)} |" for item in ITEMS.values()]
    lines = [
        "## Evidence",
        "",
        "The claims this package stands on, measured side by side on real nets and images; differences with 95 %",
        f"intervals over images. {cost(list(notes.records.values()))}",
        "",
        "| item | claim | measured |",
        "|---|---|---|",
        *rows,
        "",
        "Tables, figure and commands: [integration/evidence/README.md](integration/evidence/README.md). A small mode",
        "takes minutes, also on the nets that come with the package: `evidence.py --small --world digits`.",
    ]
    return "\n".join(lines)


def sentence(item: object, notes: Notes, scale: Scale) -> str:
    try:
        text: str = item.sentence(notes, scale)  # type: ignore[attr-defined]
    except Missing as missing:
        return f"not measured: {missing}"
    return text


def details(notes: Notes, scale: Scale) -> str:
    """Every item with its verdict and tables."""
    lines = [cost(list(notes.records.values())), ""]
    for name, item in ITEMS.items():
        lines += told(item, notes, scale)
        if name == "spectra":
            lines += ["![relative change of singular values](../results/spectra.png)", ""]
    return "\n".join(lines).rstrip()


def cost(records: list[Record]) -> str:
    """Hours of one core, and whose code it was."""
    hours = sum(float(str(record.volatile["seconds"])) for record in records) / 3600
    torch = ", ".join(sorted({record.versions["torch"] for record in records}))
    digests = sorted({record.versions["art-lowrank-attack-source"] for record in records})
    return (
        f"{len(records)} records, {hours:.1f} hours of process time, one thread each, two at a time on two cores, CPU; "
        f"torch {torch}; digest of the attack's source {', '.join(digests)}."
    )


def written(page: str, text: str) -> str:
    """The page with the text between its markers."""
    before, rest = page.split(START)
    return f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a page says something else")
    parser.add_argument("--figure", action="store_true", help="draw the figure too; needs matplotlib")
    arguments = parser.parse_args()
    notes, scale = asked_for(recorded(FULL)), Scale()
    if arguments.figure:
        perturbation_spectra.draw(notes, scale, FIGURE)
    for path, text in ((README, summary(notes, scale)), (PAGE, details(notes, scale))):
        page = path.read_text(encoding="utf-8")
        new = written(page, text)
        if not arguments.check:
            path.write_text(new, encoding="utf-8")
        elif new != page:
            sys.exit(f"{path} does not say what the records say; run integration/evidence/evidence_readme.py")


def asked_for(records: list[Record]) -> Notes:
    """Records of the full mode's questions; others may lie in the same file."""
    wanted = {question.asked.id for item in ITEMS.values() for question in item.questions(Scale())}
    return Notes(record for record in records if record.id in wanted)


if __name__ == "__main__":
    main()
