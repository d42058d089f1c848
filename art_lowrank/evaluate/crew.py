"""Cells handed out to a crew of workers, whatever they are: processes of a cluster, or objects in a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from art_lowrank.evaluate.bench import Subject
from art_lowrank.evaluate.cell import Outcome, failure
from art_lowrank.evaluate.plan import Cell
from art_lowrank.evaluate.schedule import pick, urgencies
from art_lowrank.evaluate.work import Say, Work, weight
from art_lowrank.evaluate.worker import About, Absent, differing
from art_lowrank.record import Record
from art_lowrank.training.checkpoint import reason

LIVES = 3  # workers that may die over one cell


@dataclass(eq=False)
class Member:
    """A worker as the one who hands out sees it."""

    actor: Any
    held: str | None = None  # the model it has
    cell: Cell | None = None  # what it is at; None: it says who it is


class Died(NamedTuple):
    """What is heard of a worker that is no more."""

    why: str
    lost: bool = False  # with its machine, or called off: not for what it did


class Crew(Protocol):
    """The workers: who is there, who is free."""

    free: list[Member]
    busy: dict[Any, Member]

    def hire(self, wanted: int) -> None:
        """More workers, where there is room and work; every new one says who it is."""

    def give(self, member: Member, cell: Cell, before: Mapping[str, Record], sent: Any = None) -> None:
        """Let a free worker run a cell."""

    def news(self) -> Iterator[tuple[Member, About | Outcome | Absent | Died]]:
        """What workers say that came to an end, after a moment at most."""

    def send(self, subject: Subject) -> Any:
        """Put a model where every worker can get it; what `give` takes."""

    def dismiss(self) -> None:
        """Let all go, whatever they are at."""


def handed_out(todo: Sequence[Cell], crew: Crew, work: Work, say: Say) -> Iterator[Cell]:
    """Each cell when it is done, by whomever."""
    run = Run(crew, work, say, {cell.id: cell for cell in todo})
    try:
        yield from run.cells()
    finally:
        for claim in run.running.values():
            claim.close()
        crew.dismiss()


@dataclass
class Run:
    """One evaluation on the way."""

    crew: Crew
    work: Work
    say: Say
    waiting: dict[str, Cell]  # by id
    running: dict[str, ExitStack] = field(default_factory=dict)  # cells at work, with the locks on them
    deaths: Counter[str] = field(default_factory=Counter)
    sent: dict[str, Any] = field(default_factory=dict)  # models that are not to be had elsewhere, on the cluster
    kept: dict[str, str] = field(default_factory=dict)  # models that cannot be sent, and why

    def cells(self) -> Iterator[Cell]:
        """Each cell when it is done, by whomever."""
        urgency = urgencies(list(self.waiting.values()), lambda cell: weight(cell, self.work.bench))
        while self.waiting or self.running:
            self.work.store.refresh()
            for done in [cell.id for cell in self.waiting.values() if not self.work.open(cell.id)]:
                yield self.waiting.pop(done)
            self.crew.hire(len(self.waiting) + len(self.running))
            self._hand_out(urgency)
            if not self.running and not self.crew.free and self.waiting:
                self.say(f"waiting for {len(self.crew.busy)} workers to start")
            for member, said in self.crew.news():
                if (cell := self._heard(member, said)) is not None:
                    yield cell

    def _hand_out(self, urgency: Mapping[str, float]) -> None:
        """A cell for everybody who is free, as far as there are some whose turn has come."""
        ready = [cell for cell in self.waiting.values() if self.work.ready(cell)] if self.crew.free else []
        for member in list(self.crew.free):
            crowd = Counter(other.held for other in self.crew.busy.values() if other.held is not None)
            while (cell := pick(ready, member.held, crowd, urgency)) is not None:
                ready.remove(cell)
                if self._claimed(cell):
                    sent = None if member.held == cell.model else self.sent.get(cell.model)
                    self.crew.give(member, cell, self.work.before(cell), sent)
                    self.say(f"{cell.model} {cell.attack}, {len(self.running)} at work")
                    break

    def _claimed(self, cell: Cell) -> bool:
        """Whether it is ours, and nobody has done it meanwhile."""
        claim, store = ExitStack(), self.work.store
        mine = claim.enter_context(store.claim(cell.id))
        store.refresh()
        if not mine or not self.work.open(cell.id):
            claim.close()
            return False
        self.running[cell.id] = claim
        del self.waiting[cell.id]
        return True

    def _heard(self, member: Member, said: Any) -> Cell | None:
        """The cell that is done by what a worker says, if it is."""
        cell, member.cell = member.cell, None
        if isinstance(said, Absent):
            member.held = None
        if cell is None:
            self._greeted(said)
            return None
        outcome = self._outcome(cell, said)
        if outcome is None:
            self.waiting[cell.id] = cell
        else:
            self.work.store.add(outcome.record, outcome.tensors)
        self.running.pop(cell.id).close()
        return None if outcome is None else cell

    def _greeted(self, said: About | Died) -> None:
        """A worker of our own version; one that cannot even start is tried again, and not for ever."""
        if isinstance(said, About):
            if (complaint := differing(said)) is not None:
                raise ValueError(complaint)
            self.deaths["start"] = 0
            return
        self.deaths["start"] += not said.lost
        if self.deaths["start"] >= LIVES:
            raise ValueError(f"workers do not start on the cluster: {said.why}")

    def _outcome(self, cell: Cell, said: Any) -> Outcome | None:
        """What becomes the cell's record; None: it is to be run again."""
        if isinstance(said, Absent):
            return self._absent(cell, said)
        if isinstance(said, Outcome):
            return said
        self.deaths[cell.id] += not said.lost
        if self.deaths[cell.id] < LIVES:
            return None
        return Outcome(failure(cell, RuntimeError(f"{LIVES} workers died of it, the last: {said.why}")), {})

    def _absent(self, cell: Cell, said: Absent) -> Outcome | None:
        """A model that a worker cannot make by its name is sent; images and attacks have to be there."""
        if said.kind != "model":
            raise ValueError(
                f"the worker on {said.host} cannot use {said.name}: {said.why}; put it there too, at that place"
            )
        if said.sent:
            why = f"{cell.model} cannot be opened on {said.host} ({said.why}); install there what it is made of"
            return Outcome(failure(cell, ValueError(why)), {})
        if cell.model in self.sent:  # by what another worker said
            return None
        if cell.model not in self.kept:
            try:
                self.sent[cell.model] = self.crew.send(self.work.bench.subject(cell.model))
                return None
            except (Exception, SystemExit) as error:  # of somebody else's model: it must not end the evaluation
                self.kept[cell.model] = reason(error)
        why = f"{cell.model} is not on {said.host} ({said.why}), and cannot be sent there: {self.kept[cell.model]}"
        return Outcome(failure(cell, ValueError(why)), {})
