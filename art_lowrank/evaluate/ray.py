"""Evaluation on a Ray cluster: the same cells, run by workers on any number of machines. Only this file knows Ray.

This process alone reads and writes the folder; a worker gets a cell and the records it starts from, and sends an
outcome back. Models and images are found by their names where the worker is; a model that is not there is sent.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from art_lowrank.evaluate.bench import Bench, Subject
from art_lowrank.evaluate.calibration import Calibration
from art_lowrank.evaluate.crew import Died, Member, handed_out
from art_lowrank.evaluate.forecast import Kind
from art_lowrank.evaluate.plan import Cell, Plan
from art_lowrank.evaluate.sending import own_modules, packed, tried
from art_lowrank.evaluate.work import WAIT, Say, Work
from art_lowrank.evaluate.worker import Worker, differing
from art_lowrank.record import Record

try:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise ImportError(f"--engine ray needs Ray ({error}); pip install 'art-lowrank[distributed]'") from error

ANSWER = 30  # seconds an address has to answer
LEAST = 0.01  # of a CPU or GPU, for a worker
LOST = ("node has died", "node was", "before it started running")  # of a worker, in Ray's words
LOOK = 2  # seconds between looks at what the cluster has
ALONE = 60  # seconds without any worker after which it is given up
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


@dataclass(frozen=True)
class OnRay:
    """Run cells on a Ray cluster: an engine for `evaluate`.

    address     HOST:PORT, or "auto" for the one that runs here; None: $RAY_ADDRESS, else one of this machine's own, for
                the time of the evaluation
    workers     at most so many; None: as many as fit
    cpus, gpus  of each; fractions of a GPU are shared; gpus=None: one where the cluster has any, else none
    """

    plan: Plan
    address: str | None = None
    workers: int | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible settings now."""
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; give at least 1")
        if not (0 <= self.cpus < float("inf")) or (self.cpus > 1 and self.cpus % 1) or 0 < self.cpus < LEAST:
            raise ValueError(f"cpus is {self.cpus}; give a part of one, such as 0.5, or 1, 2 ... for a worker")
        if self.gpus is not None and not (self.gpus == 0 or LEAST <= self.gpus <= 1):
            raise ValueError(f"gpus is {self.gpus}; a worker uses one GPU: give 1, a part of it such as 0.5, or 0")
        if self.gpus is not None and {"cpu": self.gpus > 0, "cuda": self.gpus == 0}.get(self.plan.device):
            raise ValueError(f"device is {self.plan.device!r} and gpus {self.gpus}; leave one of them out")
        if self.plan.device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"device is {self.plan.device!r}; on Ray give auto, cpu or cuda: it says which GPU is whose"
            )

    def __call__(self, todo: Sequence[Cell], work: Work, say: Say) -> Iterator[Cell]:
        if not todo:
            return
        with connected(self.address):
            asked = self._sized()
            check_room(asked)
            yield from handed_out(todo, Crew(asked), work, say)

    def kinds(self, cells: Sequence[Cell], bench: Bench) -> list[Kind]:
        """What cells take on every kind of machine of the cluster, tried on one of each; machines with GPUs by GPU."""
        found = []
        with connected(self.address):
            sized = self._sized()
            check_room(sized)
            alike: dict[str, list[Any]] = {}
            for node in machines(sized):
                alike.setdefault(kind_of(node), []).append(node)
            left = self.workers or sum(room(node, sized) for node in machines(sized))
            for nodes in alike.values():
                rooms = min(left, sum(room(node, sized) for node in nodes))
                left -= rooms
                if rooms:
                    calibration = _tried(sized, nodes[0], cells, bench)
                    found.append(Kind(rooms, calibration, min(1.0, sized.gpus or sized.cpus or 1.0)))
        return found

    def _sized(self) -> OnRay:
        """With the GPUs of a worker decided."""
        if self.gpus is not None:
            return self
        wanted = self.plan.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        return replace(self, gpus=1 if wanted or self.plan.device == "cuda" else 0)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A cluster for the time of the block; one that the caller is connected to already is used and left alone."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address is None or address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(address="local", include_dashboard=False, **QUIET)
        else:
            check_answer(address)
            ray.init(address=address, **QUIET)
    except (OSError, RuntimeError, ValueError, OverflowError, AssertionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"no Ray cluster answers at {address or 'this machine'} ({lines[0][:200]}); start one there with ray start "
            "--head, or leave --address out for one of this machine's own"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_answer(address: str) -> None:
    """Ray waits for ever for an address that is somebody else's; another process is asked first, and not for long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        shown = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=ANSWER, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no answer in {ANSWER} s") from None
    if shown.returncode:
        raise ConnectionError((shown.stderr.strip().splitlines() or ["it ends"])[-1])


class Crew:
    """The workers: who is there, who is free."""

    def __init__(self, asked: OnRay) -> None:
        self.asked = asked
        self.free: list[Member] = []
        self.busy: dict[Any, Member] = {}  # by what is waited for
        self._looked, self._seen = -float(LOOK), time.monotonic()

    def hire(self, wanted: int) -> None:
        """More workers, as far as there is room; machines that join later are found."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked, asked = time.monotonic(), self.asked
        have = len(self.free) + len(self.busy)
        rooms = sum(room(node, asked) for node in machines(asked))
        for _ in range(have, min(rooms, wanted, asked.workers or rooms)):
            actor = hired(asked, "SPREAD")
            self.busy[actor.about.remote()] = Member(actor)
        if rooms or self.free:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > ALONE:
            raise ValueError(f"the Ray cluster has had no machine for a worker for {ALONE} s; run the same again")

    def give(self, member: Member, cell: Cell, before: Mapping[str, Record], sent: Any = None) -> None:
        """Let a free worker run a cell."""
        self.free.remove(member)
        member.cell, member.held = cell, cell.model
        self.busy[member.actor.run.remote(cell, before, sent)] = member

    def news(self) -> Iterator[tuple[Member, Any]]:
        """Workers that came to an end, with what they say; those that died are forgotten."""
        done, _ = ray.wait(list(self.busy), timeout=WAIT) if self.busy else ([], [])
        if not self.busy:
            time.sleep(WAIT)
        for reference in done:
            member = self.busy.pop(reference)
            try:
                said = ray.get(reference)
            except ray.exceptions.RayError as error:
                cancelled = isinstance(getattr(error, "cause", None), ray.exceptions.TaskCancelledError)
                if isinstance(error, ray.exceptions.RayTaskError) and not cancelled:
                    raise
                ray.kill(member.actor)
                yield member, Died(last_line(error), any(words in str(error) for words in LOST))
                continue
            self.free.append(member)
            yield member, said

    def send(self, subject: Subject) -> Any:
        """Put a model where every worker can get it."""
        return ray.put(by_value(subject))

    def dismiss(self) -> None:
        """Let all go, whatever they are at."""
        for member in (*self.free, *self.busy.values()):
            ray.kill(member.actor)


def hired(asked: OnRay, where: Any) -> Any:
    """A new worker, which starts as soon as there is room."""
    kind = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus, scheduling_strategy=where)(Worker)
    plan = asked.plan if asked.gpus else replace(asked.plan, device="cpu")  # a worker without a GPU may see them all
    return kind.remote(plan, str(Path.cwd()), asked.gpus)


def by_value(subject: Subject) -> bytes:
    """A model with the code of the present folder."""
    modules = own_modules(Path.cwd())
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return packed(subject, cloudpickle.dumps)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _tried(asked: OnRay, node: Any, cells: Sequence[Cell], bench: Bench) -> Calibration:
    """What cells take on a machine, on a worker of its own."""
    actor = hired(asked, NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
    try:
        about = actor.about.remote()
        if not ray.wait([about], timeout=ANSWER)[0]:
            print(f"waiting until {node['NodeManagerHostname']} has room for a worker", file=sys.stderr, flush=True)
        if (complaint := differing(ray.get(about))) is not None:
            raise ValueError(complaint)
        return tried(lambda sent: ray.get(actor.calibrate.remote(cells, sent)), bench, by_value)
    except ray.exceptions.RayActorError as error:
        raise ValueError(f"a worker died of the trial, the evaluation may do better: {last_line(error)}") from error
    finally:
        ray.kill(actor)


def check_room(asked: OnRay) -> None:
    """Refuse workers that no machine can hold."""
    if not machines(asked):
        wants = f"{asked.cpus:g} CPUs and {asked.gpus:g} GPUs"
        raise ValueError(f"no machine of the Ray cluster has {wants} for a worker; give less, --cpus 1 --gpus 0")


def machines(asked: OnRay) -> list[Any]:
    """Those of the cluster that are alive and can hold a worker."""
    return [node for node in ray.nodes() if node["Alive"] and room(node, asked)]


def room(node: Any, asked: OnRay) -> int:
    """How many workers a machine can hold."""
    needs = {"CPU": asked.cpus, "GPU": asked.gpus or 0}
    return min((int(node["Resources"].get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need), default=1)


def kind_of(node: Any) -> str:
    """What is alike: machines with the same GPUs, or with none."""
    return ",".join(sorted(name for name in node["Resources"] if name.startswith("accelerator_type:")))


def last_line(error: BaseException) -> str:
    """What an error of Ray comes down to."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
