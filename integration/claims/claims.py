"""Measures what the attack promises: a record a trial, recorded ones are skipped. `--table` only prints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from book import Book
from from_peers import SOURCE, net, zoo
from measure import DIGEST, measured
from mnist_nets import OWN_NETS, trained
from promises import PROMISES, markdown, targets, verdicts
from torch import Tensor, nn
from trials import Trial

from art_lowrank.record import Record, append, read

RESULTS = Path(__file__).resolve().parents[1] / "results" / "claims.jsonl"


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    if not arguments.table:
        work(todo(arguments), arguments.results)
    records = recorded(arguments.results)
    if arguments.table:
        print(markdown(records, arguments.n, arguments.only))
    else:
        print("\n".join(targets(verdicts(Book(records), arguments.n, arguments.only))))


def todo(arguments: argparse.Namespace) -> dict[str, list[Trial]]:
    """The trials that have no record yet, by net, so that each is loaded or trained once."""
    last = {record.id: record for record in recorded(arguments.results)}
    done = {key for key, record in last.items() if not arguments.again or record.versions.get(SOURCE) == DIGEST}
    found: dict[str, list[Trial]] = {}
    for name in arguments.only:
        for trial in PROMISES[name].trials(arguments.n):
            if trial.asked.id not in done and any(text in trial.model for text in arguments.nets):
                done.add(trial.asked.id)
                found.setdefault(trial.model, []).append(trial)
    return found


def work(trials: dict[str, list[Trial]], results: Path) -> None:
    """Measure and append."""
    for name, of_net in trials.items():
        model = model_of(name)
        for trial in of_net:
            started = time.perf_counter()
            append(results, measured(trial, model, *images(trial)))
            settings = " ".join(f"{key}={value}" for key, value in trial.settings.items())
            print(f"{name} {trial.attack} {settings}: {time.perf_counter() - started:.1f} s", flush=True)


def model_of(name: str) -> nn.Module:
    """A net of the assets, or one of our own."""
    return trained(name) if name in OWN_NETS else net(name)


def images(trial: Trial) -> tuple[Tensor, Tensor]:
    """The first n test images of the net's data."""
    x, y = zoo().images(trial.dataset, "test", trial.n)
    if len(y) < trial.n:
        raise SystemExit(f"the test split of {trial.dataset} holds {len(y)} images, fewer than --n {trial.n}")
    return x, y


def recorded(path: Path) -> list[Record]:
    found: Iterable[Record] = read(path) if path.exists() else []
    return list(found)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSONL file the records are appended to")
    parser.add_argument("--n", type=int, default=1000, help="images: the first of the test split")
    parser.add_argument("--only", nargs="+", default=list(PROMISES), choices=list(PROMISES), metavar="PROMISE",
                        help=f"some of: {', '.join(PROMISES)}")  # fmt: skip
    parser.add_argument("--nets", nargs="+", default=[""], metavar="TEXT", help="only nets whose name holds one")
    parser.add_argument(
        "--again", action="store_true", help="measure anew what another state of the attack has recorded"
    )
    parser.add_argument("--table", action="store_true", help="print targets and tables from the records, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
