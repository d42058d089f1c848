"""What both suites share: a host's checkout, checked swaps in a copy of it, pytest in its own process, a table."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent


class Refused(Exception):
    """The suite cannot run as promised; the message is one line for the user."""


class Swap(NamedTuple):
    """A text that must occur exactly once in a host's file, and what stands there instead."""

    old: str
    new: str


class Outcome(NamedTuple):
    """What pytest said of one test."""

    status: str  # passed, failed, skipped
    seconds: float
    why: str  # the last line of the error
    said: str  # what the test printed


Key = tuple[str, str]  # module and name of a test
Outcomes = dict[Key, Outcome]


class Row(NamedTuple):
    """One line of the table; `expected` says why a failure is not held against us."""

    title: str
    key: Key
    expected: str = ""


def parser(about: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=about)
    found.add_argument("--checkout", type=Path, metavar="DIR", help="git checkout of the host; without, it is cloned")
    return found


def checkout_of(given: Path | None, address: str, tag: str, scratch: Path) -> Path:
    """The user's checkout, or a clone of the tag."""
    if given is not None:
        if not given.is_dir():
            raise Refused(f"--checkout {given} is no folder; give a git checkout of {address}")
        return given
    clone = scratch / "clone"
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, address, str(clone)]
    if subprocess.run(command).returncode:
        raise Refused(f"{address} cannot be cloned; give a checkout of {tag} with --checkout DIR")
    return clone


def copied(checkout: Path, names: Iterable[str], into: Path) -> Path:
    """These files and folders of the checkout, in a folder where they may be changed."""
    for name in names:
        source = checkout / name
        if not source.exists():
            raise Refused(f"{checkout} has no {name}; it is not the checkout this suite knows")
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into / name)
    return into


def swapped(text: str, swaps: Iterable[Swap], where: str) -> str:
    """The text after every replacement."""
    for old, new in swaps:
        if (found := text.count(old)) != 1:
            raise Refused(f"{where}: this text should be there once and is there {found} times: {old!r}")
        text = text.replace(old, new)
    return text


def needed(*modules: str) -> None:
    """All of these can be imported."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise Refused(f"these cannot be imported: {', '.join(missing)}; see README.md in {HERE.name}")


def outcomes(folder: Path, tests: Sequence[str], env: dict[str, str], options: Sequence[str] = ()) -> Outcomes:
    """Run these tests in the folder, away from any other pytest configuration."""
    (folder / "pytest.ini").write_text("[pytest]\n")  # makes the folder pytest's root
    report = folder / "report.xml"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join(filter(None, [env.pop("PYTHONPATH", ""), str(HERE), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *options, *tests]
    ran = subprocess.run(
        command, cwd=folder, env={**inherited, **env, "PYTHONPATH": path}, capture_output=True, text=True
    )
    found = read(report) if report.exists() else {}
    if not any(module for module, _ in found):  # else it is what could not be collected
        print(ran.stdout[-3000:], ran.stderr[-3000:], sep="\n", file=sys.stderr)
        raise Refused(f"pytest ran none of the tests (exit code {ran.returncode}); its output is above")
    return found


def read(report: Path) -> Outcomes:
    """pytest's XML report as outcomes; of a test that failed and could not clean up, the first."""
    found: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        modules = [part for part in case.get("classname", "").split(".") if part.startswith("test_")]
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        status = "passed" if not bad else "skipped" if bad[0].tag == "skipped" else "failed"
        why = " ".join((bad[0].get("message") or "").split())[:300] if bad else ""
        said = case.findtext("system-out") or ""
        key = modules[0] if modules else "", case.get("name", "")
        if key not in found or found[key].status == "passed":
            found[key] = Outcome(status, float(case.get("time", 0)), why, said)
    return found


def table(rows: Sequence[Row], ours: Outcomes, control: Outcomes | None = None) -> bool:
    """Print a line a test; whether every promised test passed."""
    width = max(len(row.title) for row in rows)
    fine = True
    for row in rows:
        outcome = ours.get(row.key, Outcome("not run", 0.0, "no such test in the checkout", ""))
        beside = "" if control is None else f"   host's own: {control[row.key].status if row.key in control else '-'}"
        print(f"{row.title:<{width}}  {judged(row, outcome)}{beside}")
        if outcome.status != "passed":
            print(f"    {outcome.why}")
            fine = fine and bool(row.expected)
    promised = sum(not row.expected for row in rows)
    print(f"{'all' if fine else 'NOT all'} of the {promised} promised tests passed")
    return fine


def judged(row: Row, outcome: Outcome) -> str:
    if not row.expected:
        return f"{outcome.status if outcome.status == 'passed' else outcome.status.upper()} in {outcome.seconds:.1f} s"
    if outcome.status == "passed":
        return f"passed, which was not expected ({row.expected})"
    return f"{outcome.status}, as expected ({row.expected})"
