"""What `art-lowrank spectra` does: evaluate what was asked, measure the folder's perturbations, write and print."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from art_lowrank.evaluate.command import FAILED, INTERRUPTED, said
from art_lowrank.evaluate.perturbations.measure import Spectra, spectra_of
from art_lowrank.evaluate.perturbations.tables import charts, csv_text, lines
from art_lowrank.evaluate.plan import plan_of
from art_lowrank.evaluate.report.png import can_draw, png
from art_lowrank.evaluate.report.words import printable
from art_lowrank.evaluate.run import evaluate
from art_lowrank.files import write_whole

OUT = Path("art-lowrank-spectra")  # evaluated into where neither a folder nor anything else is given
FOLDER, TABLE = "spectra", "spectra.csv"
USUAL = (  # whole attacks: those that stop at a broken image keep the perturbation of that moment
    "lowrank-pgd[rank=full,steps=1]",
    "lowrank-pgd[rank=full,early_stop=false]",
    "lowrank-pgd[rank=0.1,early_stop=false]",
    "lora-pgd[rank=0.1]",
)


def run_spectra(out: Path | None, given: Mapping[str, Any], verbose: bool, say: Callable[[str], Any] = print) -> int:
    """Evaluate, measure, write, print, and return the exit code."""
    folder = out or OUT
    try:
        if given or out is None:
            evaluate(plan_of({"attacks": USUAL, **given}, "the flags"), folder, verbose=verbose)
        result = spectra_of(folder)
        write(folder / FOLDER, result)
    except KeyboardInterrupt:
        click.echo("interrupted; what is evaluated is kept: run the same command again to go on", err=True)
        return INTERRUPTED
    except OSError as error:
        raise ValueError(said(error, folder)) from error
    if not result.found and not result.failures:
        raise ValueError("; ".join(result.remarks) or f"{folder} holds no attack whose perturbations can be measured")
    show(result, folder / FOLDER / TABLE, say)
    return FAILED if result.failures else 0


def show(result: Spectra, table: Path, say: Callable[[str], Any]) -> None:
    """What was found, then what was not."""
    for line in (*lines(result.found), *result.remarks, *(f"FAILED: {line}" for line in result.failures)):
        say(printable(line))
    if not can_draw():
        say("matplotlib is not installed, so there are no PNG files: pip install 'art-lowrank[report]'")
    if result.found:
        say(f"Spectra: {table}")


def write(folder: Path, result: Spectra) -> None:
    """Every file whole; pictures of earlier measurements are deleted."""
    if not result.found:
        return
    data = dict(files(result))
    folder.mkdir(exist_ok=True)
    for name, content in data.items():
        write_whole(folder / name, content)
    for path in folder.iterdir():
        if re.fullmatch(r"(change|energy)-\d+\.png", path.name) and path.name not in data:
            path.unlink(missing_ok=True)


def files(result: Spectra) -> Iterator[tuple[str, bytes]]:
    """What is written, by name."""
    yield TABLE, printable(csv_text(result.found)).encode()
    if can_draw():
        yield from ((f"{name}.png", png(chart)) for name, chart in charts(result.found))
