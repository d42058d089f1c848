"""What `art-lowrank spectra` does: evaluate what was asked, measure the folder's perturbations, write and print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from art_lowrank.evaluate.command import FAILED
from art_lowrank.evaluate.outcome import RECORDS
from art_lowrank.evaluate.perturbations.measure import Measured, measured
from art_lowrank.evaluate.perturbations.tables import charts, csv_text, lines
from art_lowrank.evaluate.plan import plan_of
from art_lowrank.evaluate.report.pictures import UNREADABLE, readable
from art_lowrank.evaluate.report.png import can_draw, png
from art_lowrank.evaluate.report.words import printable
from art_lowrank.evaluate.run import evaluate
from art_lowrank.files import write_whole

FOLDER, TABLE = "spectra", "spectra.csv"
USUAL = (  # whole attacks: those that stop at a broken image keep the perturbation of that moment
    "lowrank-pgd[rank=full,steps=1]",
    "lowrank-pgd[rank=full,early_stop=false]",
    "lowrank-pgd[rank=0.1,early_stop=false]",
    "lora-pgd[rank=0.1]",
)


def run_spectra(out: Path, given: Mapping[str, Any], verbose: bool, say: Callable[[str], Any] = print) -> int:
    """Measure and return the exit code: as it is where nothing is asked and the folder is an evaluation's."""
    code = 0
    if given or not (out / RECORDS).exists():
        done = evaluate(plan_of({"attacks": USUAL, **given}, "the flags"), out, verbose=verbose)
        for record in done.failures:
            say(f"FAILED: {record.model}, {record.attack}: {record.values['error']}")
        code = FAILED if done.failures else 0
    try:
        found = measured(out)
    except UNREADABLE as error:
        raise ValueError(readable(error)) from error
    for line in lines(found):
        say(printable(line))
    if not can_draw():
        say("matplotlib is not installed, so there are no PNG files: pip install 'art-lowrank[report]'")
    (out / FOLDER).mkdir(exist_ok=True)
    for name, data in files(found):
        write_whole(out / FOLDER / name, data)
    say(f"Spectra: {out / FOLDER / TABLE}")
    return code


def files(found: list[Measured]) -> Iterator[tuple[str, bytes]]:
    """What is written, by name."""
    yield TABLE, printable(csv_text(found)).encode()
    if can_draw():
        yield from ((f"{name}.png", png(chart)) for name, chart in charts(found))
