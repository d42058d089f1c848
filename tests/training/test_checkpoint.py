"""Files that are whole or not there, and folders of training that are full, broken, foreign or somebody else's."""

from __future__ import annotations

import errno
import json
import os
import pickle
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from art_lowrank import files
from art_lowrank.files import write_whole
from art_lowrank.training import Folder, Learner, Objective, attach, train
from art_lowrank.training.checkpoint import load_weights, read
from art_lowrank.training.loop import Course
from art_lowrank.weights import factorize

resource = pytest.importorskip("resource", reason="limits on the size of files are POSIX's")


def learner(width=24, lr=1e-2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU(), nn.Linear(width, 4))
    factorize(net, keep=0.6)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    return Learner(net, net, optimizer, Objective(), attach("condlr", net, optimizer))


def run(one, epochs, folder, resume=True):
    generator = torch.Generator().manual_seed(1)
    batch = torch.rand(32, 1, 6, 6, generator=generator), torch.randint(0, 4, (32,), generator=generator)
    found = iter([0.1, 0.2, 0.3, 0.4, 0.5])
    return train(one, lambda _: [batch], Course(epochs, verbose=False), lambda: {"clean": next(found)}, folder, resume)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@contextmanager
def small_files(size):
    """The real thing, without being root: the kernel refuses to write files beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(*_):
    if threading.current_thread() is threading.main_thread():  # another test's summary writer may still be at work
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_whole(tmp_path):
    for path in (tmp_path / "a.bin", str(tmp_path / "b.bin")):
        write_whole(path, b"one")
        write_whole(path, b"another")
        assert Path(path).read_bytes() == b"another"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin"]


@pytest.mark.parametrize("place", ["fsync", "replace", "open", "write"])
def test_write_whole_or_not_at_all(tmp_path, monkeypatch, place):
    path = tmp_path / "a.bin"
    write_whole(path, b"old")
    if place == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)
    elif place != "write":
        monkeypatch.setattr(files.Path, place, full)
    with small_files(10 if place == "write" else 10**9), pytest.raises(OSError, match=r"space|too large"):
        write_whole(path, b"new and longer")
    monkeypatch.undo()
    assert contents(tmp_path) == {"a.bin": b"old"}
    with small_files(10), pytest.raises(OSError, match="too large"):
        write_whole(tmp_path / "b.bin", b"new and longer")
    assert contents(tmp_path) == {"a.bin": b"old"}


def test_write_whole_syncs_before_it_renames(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, Path.replace
    path = tmp_path / "a.bin"

    def synced(number):
        order.append(("sync", os.fstat(number).st_size, path.exists()))
        fsync(number)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.Path, "replace", lambda *paths: (order.append("rename"), replace(*paths)))
    write_whole(path, b"12345")
    assert order[:2] == [("sync", 5, False), "rename"]


@pytest.mark.parametrize("way", ["fsync", "limit"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, way):
    one, folder = learner(), Folder(tmp_path, {"name": "it"})
    run(one, 1, folder)
    before = contents(tmp_path)
    if way == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)
    with small_files(2000 if way == "limit" else 10**9), pytest.raises(OSError, match=r"was not written") as caught:
        run(one, 2, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    assert "intact" in message
    assert "make room or give another folder" in message
    assert contents(tmp_path) == before
    monkeypatch.undo()
    again, whole = learner(), learner()
    run(again, 3, folder)
    run(whole, 3, Folder(tmp_path / "other", {}))
    assert all(map(torch.equal, again.model.state_dict().values(), whole.model.state_dict().values()))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot be a folder for checkpoints .*give another") as caught:
        run(learner(), 1, Folder(tmp_path / "file" / "run", {}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", [0, 1, 30, 200, 0.3, 0.6, 0.9, 0.99, -1])
def test_a_truncated_state_is_one_line(tmp_path, left):
    folder = Folder(tmp_path, {})
    run(learner(), 1, folder)
    data = (tmp_path / "last.pt").read_bytes()
    size = int(left * len(data)) if isinstance(left, float) else left
    (tmp_path / "last.pt").write_bytes(data[:size])
    one = learner()
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"last\.pt is damaged or no checkpoint .*; delete it to begin anew") as caught:
        run(one, 2, folder)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in one.model.state_dict().items())
    assert len(run(one, 1, folder, resume=False)) == 1
    assert len(run(learner(), 2, folder)) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"no checkpoint at all",
        b"\x80\x02garbage",
        b"PK\x03\x04" + bytes(100),
        pickle.dumps({"model": 1}),
        bytes(1000),
        b"\x80\x04\x95\xff\xff\xff\xff",
        b"(dp0\nS'a'\np1\nI1\ns.",
    ],
)
def test_a_foreign_file_is_one_line(tmp_path, data):
    (tmp_path / "last.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"last\.pt is .*no checkpoint.*delete it to begin anew") as caught:
        Folder(tmp_path, {}).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [[1, 2], {"model": {}}, torch.zeros(3), {"state_dict": {}}])
def test_another_programs_state_is_one_line(tmp_path, state):
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt is no checkpoint of art_lowrank"):
        read(tmp_path / "last.pt")


class Dangerous:
    """What a pickle may do when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_file_is_not_executed(tmp_path, plain):
    witness = tmp_path / "executed"
    state = {"model": Dangerous(witness), "optimizer": {}, "history": [], "asked": {}}
    if plain:
        (tmp_path / "last.pt").write_bytes(pickle.dumps(state))
    else:
        torch.save(state, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="damaged or no checkpoint") as caught:
        run(learner(), 1, Folder(tmp_path, {}))
    assert not witness.exists()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # no advice to load it all the same


def test_another_configuration_is_named(tmp_path):
    asked = {"keep": 0.2, "method": "condlr", "seed": 0}
    run(learner(), 1, Folder(tmp_path, asked))
    before = contents(tmp_path)
    for name, value in (("keep", 0.3), ("method", "none"), ("seed", 1)):
        with pytest.raises(ValueError, match=f"holds training with {name}=") as caught:
            run(learner(), 2, Folder(tmp_path, {**asked, name: value}))
        assert repr(asked[name]) in str(caught.value)
        assert repr(value) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="more=None, asked is 1"):
        run(learner(), 2, Folder(tmp_path, {**asked, "more": 1}))
    assert contents(tmp_path) == before


def test_another_architecture_is_one_line(tmp_path):
    run(learner(), 1, Folder(tmp_path, {}))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds weights of another architecture: size mismatch") as caught:
        run(learner(30), 2, Folder(tmp_path, {}))
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_weights_of_another_rank_are_taken():
    net = nn.Sequential(nn.Linear(20, 30))
    few, many = (factorize(nn.Sequential(nn.Linear(20, 30)), ranks={"0": rank}) for rank in (3, 5))
    load_weights(few, many.state_dict(), "it")
    assert few[0].rank == 5
    with pytest.raises(ValueError, match="it holds weights of another architecture: Missing key"):
        load_weights(net, many.state_dict(), "it")


def test_best_weights_carry_what_is_known_of_them(tmp_path):
    one = learner()
    run(one, 2, Folder(tmp_path, {"method": "condlr"}))
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        notes = json.loads(file.metadata()["notes"])
    assert (notes["method"], notes["clean"], notes["epoch"]) == ("condlr", 0.2, 2)
    assert load_file(tmp_path / "best.safetensors").keys() == one.model.state_dict().keys()


def test_numbers_of_numpy_do_not_spoil_a_checkpoint(tmp_path):
    """Learning rates and shares often come from numpy.geomspace; what is written must be readable."""
    folder = Folder(tmp_path, {"keep": np.float64(0.5), "seed": np.int64(3)})
    run(learner(lr=np.float64(1e-2)), 1, folder)
    assert len(run(learner(lr=np.float64(1e-2)), 2, folder)) == 2


def test_resume_false_begins_anew(tmp_path):
    first, second = learner(), learner()
    run(first, 3, Folder(tmp_path, {"a": 1}))
    assert len(run(second, 2, Folder(tmp_path, {"a": 2}), resume=False)) == 2
    assert len(torch.load(tmp_path / "last.pt", weights_only=True)["history"]) == 2
    with pytest.raises(ValueError, match="holds training with a=2"):
        run(first, 3, Folder(tmp_path, {"a": 1}))
