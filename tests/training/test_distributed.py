"""Two and three processes against one: weights, messages, stored perturbations, going on, and errors that end all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")
SCRIPT = Path(__file__).with_name("processes.py")


def load():
    spec = spec_from_file_location("processes", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


processes = load()
CASES, STEPS = processes.CASES, 4  # of an epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def found(folder, launch):
    """Trainings begun by one and by three, then all that two find."""
    processes.resumed(CASES["warm, files"], processes.ALONE, folder / "by one", epochs=2)
    (folder / "file").write_text("in the way")
    launch("3,2", SCRIPT, folder)
    return [torch.load(folder / f"found-2-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def one():
    """The same trainings in this process."""
    return {name: processes.trained(case) for name, case in CASES.items()}


def close(first, second, atol=1e-9):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name} {text}")


def same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def without_times(history):
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_the_net_that_one_trains(found, one, name):
    """Also the last batch of two images, all of which one process takes, or those that each has stored."""
    for mine in found:
        close(mine[name]["weights"], one[name]["weights"])
        for epoch, alone in zip(*(without_times(way[name]["history"]) for way in (mine, one)), strict=True):
            numbers = {key: value for key, value in alone.items() if isinstance(value, float)}
            assert {key: epoch[key] for key in numbers} == pytest.approx(numbers, abs=1e-9)
            assert epoch.get("ranks") == alone.get("ranks")
    assert found[0][name]["history"] == found[1][name]["history"]
    fresh = processes.weights(processes.learner_of(CASES[name], processes.ALONE).model)
    assert all((value - fresh[key]).abs().max() > 1e-3 for key, value in one[name]["weights"].items())


@pytest.mark.parametrize("name", [*CASES, "noisy", "bf16", "fp16"])
def test_processes_hold_the_same_weights_to_the_last_bit_before_they_are_made_to(found, name):
    before = [mine[name]["meanwhile"]["before"] for mine in found]
    assert len(before[0]) >= 3
    for epochs in zip(*before, strict=True):
        assert all(torch.equal(*parameters) for parameters in zip(*epochs, strict=True))
    same(*(mine[name]["weights"] for mine in found))  # statistics of batch normalisation too


def test_one_sum_over_processes_a_step_however_many_gradients_the_attack_takes(found):
    for mine in found:
        assert mine["sums, 1"] == mine["sums, 6"] == STEPS
        for name in CASES:
            steps = STEPS - 1 if "warm" in name else STEPS  # their last two images join the batch before
            assert mine[name]["meanwhile"]["sums"] == steps * processes.EPOCHS


def test_the_bound_holds_after_every_step_in_every_process(found):
    conds = found[0]["conds"]
    assert len(conds) == STEPS
    assert 1 < max(conds) <= 1.5
    assert found[1]["conds"] == conds


@pytest.mark.parametrize("name", ["from one", "from three"])
def test_two_go_on_where_one_or_three_stopped(found, one, name):
    for rank, mine in enumerate(found):
        close(mine[name]["weights"], one["warm, files"]["weights"])
        assert len(mine[name]["history"]) == processes.EPOCHS
        assert mine[name]["held"] == len(range(rank, processes.N, 2))


def test_one_goes_on_where_two_stopped(found, one, folder):
    kept = sorted(path.name for path in (folder / "by two" / "store").iterdir())
    assert kept == [f"epoch-00000{epoch}.{rank}-of-2.perturbations" for epoch in (1, 2) for rank in (0, 1)]
    assert not (folder / "by two" / "elsewhere").exists()
    store = folder / "by two" / "store"  # and was killed later, one in the middle of the next epoch, one after it
    for name in ("epoch-000003.0-of-2.perturbations", "writing.1-of-2.perturbations"):
        shutil.copy(store / "epoch-000002.0-of-2.perturbations", store / name)
    again = processes.resumed(CASES["warm, files"], processes.ALONE, folder / "by two")
    close(again["weights"], one["warm, files"]["weights"])
    assert again["held"] == processes.N
    names = sorted(path.name for path in (folder / "by two" / "store").iterdir())
    assert names == ["epoch-000003.perturbations", "epoch-000004.perturbations"]


def test_what_is_done_in_turn_everybody_has(found):
    assert [mine["turns"] for mine in found] == [0, 1]


def test_an_error_of_one_ends_all(found):
    errors = [mine["errors"] for mine in found]
    nan = "the loss is nan in epoch 1, step 3; the model is back"
    assert all(kind == "Diverged" and text.startswith(nan) for kind, text in (mine["loss"] for mine in errors))
    kind, text = errors[0]["attack"]
    assert (kind, errors[1]["attack"]) == ("ConnectionAbortedError", ("ValueError", "an attack that fails"))
    assert text == "process 0 stops because another one failed in this step; its own message says why"
    for name in ("first", "last"):
        assert [mine[name] for mine in errors] == [("ValueError", "an attack that fails")] * 2
    for mine in errors:
        kind, text = mine["folder"]
        assert issubclass(__builtins__[kind], OSError)
        assert "cannot be a folder for checkpoints" in text
        assert "seed=5 in process 1" in mine["settings"][1] or "seed=0 in process 0" in mine["settings"][1]
        assert mine["order"][1].startswith("first batches differ: indices=")
        assert "reduction='sum'" in mine["sum"][1]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its threads")
def test_nobody_talks_any_more_when_a_run_is_over(launch, tmp_path):
    """A thread that does makes Python's end an abort now and then."""
    launch("2", SCRIPT.with_name("ending.py"), tmp_path)
    for rank in range(2):
        assert "gloo" in (tmp_path / f"during-{rank}").read_text()
        assert "gloo" not in (tmp_path / f"after-{rank}").read_text()


@pytest.mark.slow
def test_the_command_under_accelerate_launch(tmp_path):
    """accelerate starts several processes on CPUs only under this name."""
    flags = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--dynamo_backend", "no")
    command = ("-m", "art_lowrank", "train", "--epochs", "2", "--quiet", "--out")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *flags, "--mixed_precision", "no", *command]
    shown = subprocess.run([*launcher, tmp_path / "two"], capture_output=True, text=True, timeout=300, check=True)
    assert shown.stdout.count("1168 images of digits") == 1
    assert "2 processes" in shown.stdout
    alone = subprocess.run([sys.executable, *command, tmp_path / "one"], capture_output=True, timeout=300, check=True)
    assert not alone.stderr
    first, second = (load_file(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    close(first, second, atol=1e-4)


def test_a_shard_that_is_missing_is_named(found):
    for mine in found:
        kind, text = mine["errors"]["missing"]
        assert kind == "ValueError"
        assert "epoch-000002.2-of-3.perturbations is missing, one of 3" in text
