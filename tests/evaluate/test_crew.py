"""Cells handed out to workers that are objects of this process: the real workers, made to die and to lack things."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import pytest

from art_lowrank.evaluate import evaluate
from art_lowrank.evaluate.crew import LIVES, Died, Member, handed_out
from art_lowrank.evaluate.forecast import Kind, forecast, total
from art_lowrank.evaluate.plan import CLEAN
from art_lowrank.evaluate.sending import packed, tried
from art_lowrank.evaluate.worker import Worker, differing


class Crew:
    """`size` workers; what is asked of them is done when the news is asked for, last come first served."""

    def __init__(self, plan, size=2, worker=Worker, dies=lambda cell: False):
        self.plan, self.size, self.kind, self.dies = plan, size, worker, dies
        self.free, self.busy, self.asked, self.given, self.hired, self.away = [], {}, {}, [], 0, False

    def hire(self, wanted):
        while len(self.free) + len(self.busy) < min(self.size, wanted):
            member = Member(self.kind(self.plan, "."))
            self.hired += 1
            self._ask(member, member.actor.about)

    def _ask(self, member, job):
        self.busy[id(member)], self.asked[id(member)] = member, job

    def give(self, member, cell, before, sent=None):
        self.free.remove(member)
        member.cell, member.held = cell, cell.model
        self.given.append((cell, member, sent))
        self._ask(member, lambda: member.actor.run(cell, before, sent))

    def news(self):
        for key in reversed(list(self.busy)):
            member, job = self.busy.pop(key), self.asked.pop(key)
            if member.cell is not None and self.dies(member.cell):
                yield member, Died("killed by the test")
                continue
            said = job()
            self.free.append(member)
            yield member, said

    def send(self, subject):
        return packed(subject, pickle.dumps)

    def dismiss(self):
        self.away = True


@pytest.fixture
def on(plan, tmp_path):
    """Evaluate a changed plan with a crew: the crew, and the evaluation."""

    def ran(out="crew", changes=None, **options):
        asked = plan(**(changes or {}))
        crew = Crew(asked, **options)
        found = evaluate(
            asked, tmp_path / out, verbose=False, engine=lambda todo, work, say: handed_out(todo, crew, work, say)
        )
        assert crew.away
        return crew, found

    return ran


MODELS = ("digits:standard", "digits:adversarial", "digits:low-rank")


@pytest.mark.parametrize("survivors", [False, True])
def test_records_and_images_equal_the_local_ones(on, run, tmp_path, stable, images, survivors):
    changes = {"models": MODELS, "survivors": survivors}
    run("local", **changes)
    crew, _ = on(changes=changes)
    assert stable(tmp_path / "crew") == stable(tmp_path / "local")
    assert images(tmp_path / "crew") == images(tmp_path / "local")
    for model in MODELS:  # handed to a worker once, then kept
        kept = [id(member) for cell, member, _ in crew.given if cell.model == model]
        changes_of_hands = sum(a != b for a, b in pairwise(kept))
        assert len(kept) == 6
        assert survivors or changes_of_hands <= 5


def test_a_model_is_loaded_once_per_worker(on, write_model, tmp_path):
    log = tmp_path / "loads"
    code = f"with open({str(log)!r}, 'a') as file:\n    file.write('x')\nreturn Net()"
    crew, _ = on(changes={"models": [write_model(load=code), write_model(load=code)]})
    holders = {(cell.model, id(member)) for cell, member, _ in crew.given}
    assert len(log.read_text()) == len(holders)


def test_a_worker_that_dies_is_replaced_and_its_cell_run_again(on, run, tmp_path, stable):
    lost = []

    def dies(cell):
        lost.append(cell.id)
        return lost.count(cell.id) == 1 and cell.attack != CLEAN

    run("local")
    crew, found = on(dies=dies)
    assert crew.hired > 2
    assert not found.failures
    assert stable(tmp_path / "crew") == stable(tmp_path / "local")


def test_a_cell_that_kills_its_workers_is_given_up(on):
    crew, found = on(dies=lambda cell: "lora" in cell.attack and cell.start == 0)
    (failure,) = found.failures
    assert f"{LIVES} workers died of it, the last: killed by the test" in failure.values["error"]
    assert len(found.records) == len(found.cells)
    assert crew.hired > 2


def test_workers_that_never_start(on, monkeypatch):
    monkeypatch.setattr(Crew, "news", lambda self: [(self.busy.popitem()[1], Died("ImportError: no torch"))])
    with pytest.raises(ValueError, match="workers do not start on the cluster: ImportError: no torch"):
        on()


class Elsewhere(Worker):
    """On a machine that has no models."""

    def _entry(self, kind, name):
        if kind == "model":
            raise ValueError(f"{name}: there is no module 'nets'; there are others")
        return super()._entry(kind, name)


def test_a_model_that_is_not_there_is_sent_once(on, run, tmp_path, stable):
    run("local")
    crew, _ = on(worker=Elsewhere, size=1)
    assert stable(tmp_path / "crew") == stable(tmp_path / "local")
    assert [sent is not None for _, _, sent in crew.given] == [False, True, False, False, False, False, False]


def test_a_model_that_does_not_pickle_says_which_attribute(on, write_model):
    load = "found = Net()\nfound.net.kept = {'lock': __import__('threading').Lock()}\nreturn found"
    model = write_model(load=load)
    _, found = on(worker=Elsewhere, changes={"models": [model, "digits:standard"]})
    assert {record.model for record in found.failures} == {model}
    for record in found.failures:
        assert (
            "(there is no module 'nets'), and cannot be sent there: model.net.kept['lock'] (a lock) does not pickle"
            in (record.values["error"])
        )


class Without(Elsewhere):
    """Which has not even what models are made of."""

    def _learn(self, kind, cell, sent, keep=False):
        return super()._learn(kind, cell, sent and b"cnot_here\nNet\n.", keep)


def test_a_model_that_cannot_be_opened_where_it_was_sent(on):
    _, found = on(worker=Without)
    assert len(found.failures) == len(found.cells)
    assert "cannot be opened on" in found.failures[0].values["error"]
    assert "No module named 'not_here'" in found.failures[0].values["error"]


@pytest.mark.parametrize(("kind", "name"), [("data", "digits"), ("attack", "lora-pgd")])
def test_images_and_attacks_have_to_be_there(on, kind, name):
    class Lacking(Worker):
        def _entry(self, asked, name):
            if asked == kind:
                raise ValueError("there is no such thing")
            return super()._entry(asked, name)

    with pytest.raises(ValueError, match=rf"cannot use {name}.*: there is no such thing; put it there too"):
        on(worker=Lacking)


def test_other_files_under_the_same_name(on, run, tmp_path, stable):
    """What another machine has otherwise is not taken for the driver's."""

    class Changed(Worker):
        def _entry(self, kind, name):
            found = super()._entry(kind, name)
            return replace(found, meaning={"files": "others"}) if kind == "model" else found

    run("local")
    crew, _ = on(worker=Changed, size=1)
    assert any(sent is not None for _, _, sent in crew.given)
    assert stable(tmp_path / "crew") == stable(tmp_path / "local")


def test_another_version_of_the_package(on):
    class Older(Worker):
        def about(self):
            found = super().about()
            return found._replace(host="node7", versions={**found.versions, "code": "0ld"})

    with pytest.raises(ValueError, match=r"the worker on node7 has code 0ld, here is [0-9a-f]{12}; install the same"):
        on(worker=Older)


def test_what_a_build_adds_to_a_version_does_not_count(plan):
    about = Worker(plan(), ".").about()
    assert differing(about) is None
    assert "+" not in about.versions["torch"]
    assert "numpy" in differing(about._replace(versions={**about.versions, "numpy": "1.0"}))


def test_locks_are_let_go_when_it_fails(on, run, tmp_path):
    class Broken(Worker):
        def run(self, cell, before, sent=None):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on(worker=Broken)
    assert len(run("crew")) == 6


class Losing(Crew):
    """Whose machine is lost again and again; nobody is to blame."""

    times = 0

    def news(self):
        for member, said in super().news():
            if isinstance(said, Died):
                self.times += 1
                said = said._replace(lost=True)
            yield member, said


def test_a_cell_is_not_blamed_for_lost_machines(plan, tmp_path):
    asked = plan()
    lost = []

    def dies(cell):
        lost.append(cell.id)
        return lost.count(cell.id) <= 2 * LIVES

    crew = Losing(asked, dies=dies)
    found = evaluate(
        asked, tmp_path / "out", verbose=False, engine=lambda todo, work, say: handed_out(todo, crew, work, say)
    )
    assert not found.failures
    assert crew.times == 2 * LIVES * len(found.cells)


def test_a_model_that_exits_when_the_driver_loads_it(on, write_model):
    model = write_model(load="import sys\nsys.exit(7)")
    _, found = on(worker=Elsewhere, changes={"models": [model, "digits:standard"]})
    assert {record.model for record in found.failures} == {model}


def foretold(asked, out, worker):
    """A forecast by one worker."""

    def prober(cells, bench):
        made = worker(asked, ".")
        return [
            Kind(1, tried(lambda sent: made.calibrate(cells, sent), bench, lambda model: packed(model, pickle.dumps)))
        ]

    return forecast(asked, out, prober=prober)


def test_a_forecast_sends_models_too(plan, tmp_path):
    asked = plan(models=MODELS)
    (_, needs), (_, local) = (
        found.kinds[0] for found in (foretold(asked, tmp_path, Elsewhere), forecast(asked, tmp_path))
    )
    assert total(needs).gradients == total(local).gradients > 0


def test_a_forecast_without_what_cells_need_is_one_line(plan, write_model, tmp_path):
    with pytest.raises(
        ValueError, match=r"cannot use digits:standard .*'not_here'.*; install there what it is made of"
    ):
        foretold(plan(), tmp_path, Without)
    model = write_model(load="found = Net()\nfound.kept = __import__('threading').Lock()\nreturn found")
    with pytest.raises(ValueError, match=r"cannot be sent there: model.kept .a lock. does not pickle"):
        foretold(plan(models=[model]), tmp_path / "out", Elsewhere)
