"""Processes killed at any moment, and several at once: nothing is lost, nothing is there twice."""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest

from art_lowrank.evaluate import Store, evaluate, plan_of
from art_lowrank.evaluate.plan import cells_of
from art_lowrank.evaluate.run import bench_of

SLOW = "time.sleep(0.004)\nreturn self.net(x)"
TOGETHER = """
(Path({there!r}) / str(os.getpid())).touch()
while len(list(Path({there!r}).iterdir())) < int(Path({wanted!r}).read_text()):
    time.sleep(0.01)
raise ValueError('no')
"""


@pytest.fixture(scope="module")
def fork():
    """A function of the package in a process of its own, started in milliseconds: the imports are done once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["art_lowrank.evaluate.run", "sklearn.datasets"])

    def forked(function, *arguments, **options):
        process = context.Process(target=function, args=arguments, kwargs=options, daemon=True)
        process.start()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield forked


@pytest.fixture
def asked(plan, write_model):
    """Nine cells of a model that takes its time."""
    return plan(models=[write_model(SLOW)], images=60)


def cells(asked):
    bench = bench_of(asked)
    models, attacks = ({name: entry.meaning for name, entry in kind.items()} for kind in (bench.models, bench.attacks))
    return cells_of(models, {name: (entry.meaning, entry.n) for name, entry in bench.data.items()}, attacks, asked)


def claimed(store, cell):
    with store.claim(cell) as mine:
        return mine


def wait_for_more(folder, alive, chance):
    """Until the folder has got some more files or bytes, and then a moment."""
    records, images, more = folder / "records.jsonl", folder / "images", chance.randrange(3)

    def size():
        lines = records.read_bytes().count(b"\n") if records.exists() else 0
        return lines + (len(list(images.iterdir())) if images.exists() else 0)

    before = size()
    while alive() and size() <= before + more:
        time.sleep(0.0005)
    time.sleep(chance.random() * chance.choice([0.001, 0.05]))


def test_records_are_the_same_after_three_kills(fork, asked, tmp_path, stable, images):
    evaluate(asked, tmp_path / "whole", verbose=False)
    killed, chance = 0, random.Random(0)
    for _ in range(3):
        process = fork(evaluate, asked, tmp_path / "out", verbose=False)
        wait_for_more(tmp_path / "out", process.is_alive, chance)
        process.kill()
        process.join()
        killed += process.exitcode == -9
    evaluate(asked, tmp_path / "out", verbose=False)
    assert killed >= 2
    assert stable(tmp_path / "out") == stable(tmp_path / "whole")
    assert images(tmp_path / "out") == images(tmp_path / "whole")


@pytest.mark.slow
def test_records_are_the_same_after_fifty_kills_of_the_command(process, plan, write_model, tmp_path, stable, images):
    model, chance, killed = write_model("time.sleep(0.02)\nreturn self.net(x)"), random.Random(1), 0
    arguments = ["--model", model, "--images", "500", "--slice", "10", "--quiet"]
    for attack in plan().attacks:
        arguments += ["--attack", attack]
    evaluate(plan(models=[model], images=500, slice=10), tmp_path / "whole", verbose=False)
    for _ in range(50):
        running = process("--out", "out", *arguments)
        wait_for_more(tmp_path / "out", lambda running=running: running.poll() is None, chance)
        running.kill()
        running.communicate()
        killed += running.returncode == -9
    _, said = (last := process("--out", "out", *arguments)).communicate()
    assert (last.returncode, said) == (0, "")
    assert killed >= 40
    assert stable(tmp_path / "out") == stable(tmp_path / "whole")
    assert images(tmp_path / "out") == images(tmp_path / "whole")


def test_two_commands_at_once_share_the_work_and_print_one_table(process, asked, tmp_path, stable):
    arguments = ["--out", "out", "--model", *asked.models, "--images", "60", "--slice", "20", "--quiet"]
    for attack in asked.attacks:
        arguments += ["--attack", attack]
    both = [process(*arguments) for _ in range(2)]
    said = [running.communicate(timeout=100) for running in both]
    assert [(running.returncode, error) for running, (_, error) in zip(both, said, strict=True)] == [(0, "")] * 2
    assert said[0][0] == said[1][0] != ""
    evaluate(asked, tmp_path / "whole", verbose=False)
    assert stable(tmp_path / "out") == stable(tmp_path / "whole")


def test_what_a_killed_process_was_at_is_taken_up_by_the_other(fork, asked, tmp_path, stable):
    first, second = (fork(evaluate, asked, tmp_path / "out", verbose=False) for _ in range(2))
    wait_for_more(tmp_path / "out", first.is_alive, random.Random(2))
    first.kill()
    for process in (first, second):
        process.join(60)
    assert second.exitcode == 0
    assert len(stable(tmp_path / "out")) == 9
    assert not list((tmp_path / "out" / "images").glob("*.tmp"))


def test_failed_cells_are_run_again_once_by_two_processes(fork, plan, write_model, tmp_path):
    """None fails again before both have begun: the wanted number of processes is at its model."""
    wanted, there = tmp_path / "wanted", tmp_path / "there"
    there.mkdir()
    asked = plan(models=[write_model(TOGETHER.format(wanted=str(wanted), there=str(there)))], images=60)
    wanted.write_text("0")
    evaluate(asked, tmp_path / "out", verbose=False)
    wanted.write_text("3")  # this one, which has been there, and two
    both = [fork(evaluate, asked, tmp_path / "out", retry=True, verbose=False) for _ in range(2)]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "out" / "records.jsonl").read_text().count("\n") == 2 * 9


def test_a_cell_at_work_is_nobody_elses_until_its_process_ends(fork, plan, write_model, tmp_path):
    asked = plan(models=[write_model("time.sleep(60)")])
    process = fork(evaluate, asked, tmp_path / "out", verbose=False)
    clean, other = (cell.id for cell in cells(asked)[:2])
    with Store(tmp_path / "out") as store:
        started = time.monotonic()
        while claimed(store, clean) and time.monotonic() < started + 20:
            time.sleep(0.01)
        assert (claimed(store, clean), claimed(store, other)) == (False, True)
        process.kill()
        process.join()
        assert claimed(store, clean)


def test_many_processes_may_make_the_folder_at_once(fork, tmp_path):
    asked = plan_of({"models": "digits:standard", "attacks": "lowrank-pgd[steps=1]", "images": 2})
    for turn in range(2):
        crowd = [fork(evaluate, asked, tmp_path / f"{turn}", verbose=False) for _ in range(3)]
        for process in crowd:
            process.join(60)
        assert [process.exitcode for process in crowd] == [0] * 3
