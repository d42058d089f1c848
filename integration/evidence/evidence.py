"""Measures the claims the package stands on, on real nets and images, and says which of them held.

A record an answer; recorded ones are skipped, so a run that was stopped goes on. `--small` takes under ten minutes an
item on two cores and keeps its records apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from from_others import folder
from items import ANSWERS, ITEMS, sources, told
from study import Missing, Notes, Question, Scale
from worlds import WORLDS

from art_lowrank.record import Record, append, read

ROOT = Path(__file__).resolve().parents[2]
FULL = ROOT / "integration" / "results" / "evidence.jsonl"
SMALL = ROOT / "runs" / "evidence-small.jsonl"


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    scale = Scale(arguments.small, arguments.world, arguments.n)
    results = arguments.results or (SMALL if arguments.small or arguments.world != "assets" else FULL)
    if not arguments.table:
        check_assets(scale)
        if arguments.jobs > 1:
            share(arguments.jobs)
        work(todo(arguments, scale, results), results)
    notes = Notes(recorded(results))
    for name in [] if arguments.quiet else arguments.only:
        print("\n".join(told(ITEMS[name], notes, scale)))


def check_assets(scale: Scale) -> None:
    """One line where nets and images are absent."""
    if scale.where == "assets":
        try:
            folder()
        except SystemExit as absent:
            raise SystemExit(f"{absent}; or take --world digits, whose nets come with the package") from None


def share(jobs: int) -> None:
    """The same command in so many processes, each with a part; what waits for another's answer is left for later."""
    part_of = [sys.executable, *sys.argv, "--jobs", "1", "--quiet", "--part"]
    running = [subprocess.Popen([*part_of, str(part), str(jobs)]) for part in range(jobs)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a part of the work failed, see above; what is done is kept: run the same again")


def todo(arguments: argparse.Namespace, scale: Scale, results: Path) -> list[Question]:
    """What is asked and not yet answered, each question once; of these, every N-th where the work is shared."""
    done = {record.id for record in recorded(results)}
    found: dict[str, Question] = {}
    for name in arguments.only:
        found.update({question.asked.id: question for question in ITEMS[name].questions(scale)})
    asked = [question for key, question in found.items() if key not in done and arguments.match in str(question)]
    first, step = arguments.part
    return asked[first::step]


def work(questions: list[Question], results: Path) -> None:
    """Answer and append."""
    for number, question in enumerate(questions, 1):
        started = time.perf_counter()
        notes = Notes(recorded(results))
        if notes.has(question):  # by another process
            continue
        try:
            append(results, answered(question, notes))
        except Missing as missing:
            print(f"left out {question}: needs {missing}", flush=True)
            continue
        seconds = time.perf_counter() - started
        print(f"{number}/{len(questions)} {question.kind} {question}: {seconds:.1f} s", flush=True)


def answered(question: Question, notes: Notes) -> Record:
    """The record with results."""
    started = time.process_time()
    values, volatile = ANSWERS[question.kind](question, notes)
    spent = {"seconds": time.process_time() - started, **volatile}
    return Record(**{**vars(question.asked), "values": values, "volatile": spent, "versions": sources()})


def recorded(path: Path) -> list[Record]:
    return read(path) if path.exists() else []


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(ITEMS), choices=list(ITEMS), metavar="ITEM",
                        help=f"some of: {', '.join(ITEMS)}")  # fmt: skip
    parser.add_argument("--small", action="store_true", help="100 images, one seed, fewer cells")
    parser.add_argument("--world", default="assets", choices=list(WORLDS),
                        help="digits: the nets and images that come with the package")  # fmt: skip
    parser.add_argument("--n", type=int, help="at most so many images")
    parser.add_argument("--match", default="", help="only questions whose text holds this")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th, from I")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    parser.add_argument("--quiet", action="store_true", help="no tables at the end")
    parser.add_argument("--results", type=Path, help="JSONL file the records are appended to")
    parser.add_argument("--table", action="store_true", help="print what the records say, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
