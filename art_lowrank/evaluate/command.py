"""What `art-lowrank evaluate` does around the evaluation: read the plan, print the table, name the exit code."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from art_lowrank.evaluate.outcome import IMAGES, RECORDS, failed
from art_lowrank.evaluate.plan import Plan, plan_of, read_plan
from art_lowrank.evaluate.published import published
from art_lowrank.evaluate.run import Evaluation, evaluate
from art_lowrank.evaluate.table import lines, rows_of
from art_lowrank.evaluate.work import Engine, one_by_one

if TYPE_CHECKING:
    from art_lowrank.evaluate.forecast import Prober

FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DONE, CANNOT, FAILED, INTERRUPTED = 0, 1, 3, 130


def run_evaluation(
    out: Path,
    path: Path | None,
    given: Mapping[str, Any],
    leaderboard: bool,
    retry: bool,
    verbose: bool,
    say: Callable[[str], Any] = print,
    cluster: Mapping[str, Any] | None = None,
) -> int:
    """Evaluate, print, and return the exit code; `cluster` has the options of `OnRay`, None is this process."""

    def run() -> int:
        plan = read_plan(path, given) if path else plan_of(given, "the flags")
        found = evaluate(plan, out, retry=retry, verbose=verbose, engine=engine_of(plan, cluster))
        show(found, out, say)
        say(f"A page of it: {shlex.join(['art-lowrank', 'report', str(out)])}")
        if leaderboard:
            from art_lowrank.evaluate.leaderboard import write_leaderboard

            for written in write_leaderboard(found, out):  # one line an entry
                say(f"Leaderboard: {written}")
        return FAILED if found.failures else DONE

    return ended(run, out, "what is done is kept: run the same command again to go on")


def run_forecast(
    out: Path,
    path: Path | None,
    given: Mapping[str, Any],
    retry: bool,
    say: Callable[[str], Any] = print,
    cluster: Mapping[str, Any] | None = None,
) -> int:
    """Say what the evaluation is going to take; nothing is written."""
    from art_lowrank.evaluate.forecast import forecast
    from art_lowrank.evaluate.forecast import lines as forecast_lines

    def run() -> int:
        plan = read_plan(path, given) if path else plan_of(given, "the flags")
        found = forecast(plan, out, retry=retry, prober=None if cluster is None else prober_of(plan, cluster))
        for line in forecast_lines(found):
            say(line)
        return FAILED if found.errors else DONE

    return ended(run, out, "nothing was written")


def ended(run: Callable[[], int], out: Path, left: str) -> int:
    """The exit code of a run; whatever ends it is one line."""
    try:
        return run()
    except KeyboardInterrupt:
        click.echo(f"interrupted; {left}", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads on
        return CANNOT
    except OSError as error:
        raise click.ClickException(said(error, out)) from error
    except (ValueError, ImportError) as error:
        raise click.ClickException(str(error)) from error


def prober_of(plan: Plan, cluster: Mapping[str, Any]) -> Prober:
    """What tries cells on a cluster."""
    from art_lowrank.evaluate.ray import OnRay

    return OnRay(plan, **cluster).kinds


def engine_of(plan: Plan, cluster: Mapping[str, Any] | None) -> Engine:
    """Where cells are run."""
    if cluster is None:
        return one_by_one
    from art_lowrank.evaluate.ray import OnRay

    return OnRay(plan, **cluster)


def said(error: OSError, out: Path) -> str:
    """The error, and what it means for the folder where it is the folder's."""
    about_out = str(error.filename or "").startswith(str(out)) or error.errno in FOLDER_ERRORS
    more = "; what is done is kept: mend that (or give another folder with --out) and run the same again"
    return f"{error}{more if about_out else ''}"


def show(found: Evaluation, out: Path, say: Callable[[str], Any]) -> None:
    """The table, where everything lies, and what failed."""
    for line in lines(rows_of(found.cells, found.records)):
        say(line)
    for line in beside(found):
        say(line)
    say(f"\nRecords: {out / RECORDS}")
    if found.bench.keep_images:
        say(f"Adversarial images: {out / IMAGES}")
    if found.failures:
        say(f"{len(found.failures)} of {len(found.cells)} cells failed; their tracebacks are in the records. "
            "Run again with --retry once mended.")  # fmt: skip


def beside(found: Evaluation) -> Iterator[str]:
    """What RobustBench has published of these models."""
    done = {record.model for record in found.records.values() if not failed(record)}
    cards = [(name, card) for name in found.bench.models if name in done and (card := published(name)) is not None]
    if cards:
        yield "\nRobustBench's model cards (whole test sets), to compare with:"
    for name, card in cards:
        yield f"  {name}: {card}"
