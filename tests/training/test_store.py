"""What a store gives back, what it keeps when an epoch is broken off, and what it refuses in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch

from art_lowrank.attack.factors import truncated
from art_lowrank.training import PerturbationStore
from art_lowrank.training.rows import erase

N, SHAPE, RANK = 6, (2, 20, 24), 2
ALL = torch.arange(N)
FIRST, SECOND, WRITING = "epoch-000001.perturbations", "epoch-000002.perturbations", "writing.perturbations"


def noise(seed=0, n=N, shape=SHAPE):
    delta = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def thin(seed=0, rank=RANK, n=N):
    return truncated(noise(seed, n), rank)


def store(path=None, rank=RANK, **given):
    return PerturbationStore(**{"n": N, "shape": SHAPE, "rank": rank, "path": path, **given})


def epoch(one, number, delta, indices=ALL, moves=None, **given):
    one.begin(number, **given)
    one.save(indices, delta, moves)
    one.commit()
    return one


def shown(one, number, **given):
    """All that an epoch starts from."""
    one.begin(number, **given)
    return one.load(ALL).dense()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def same(a, b, atol=1e-3):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("where", ["memory", "files"])
@pytest.mark.parametrize("kind", ["factors", "dense of that rank", "full"])
def test_what_has_the_rank_comes_back(tmp_path, where, kind):
    given = thin() if kind == "factors" else noise() if kind == "full" else thin().dense()
    one = store(tmp_path if where == "files" else None, "full" if kind == "full" else RANK)
    epoch(one, 0, given)
    same(shown(one, 1), given.dense() if kind == "factors" else given, atol=3e-4)
    assert one.load(ALL).left.dtype == torch.float32
    assert tuple(one.load(ALL[:2]).dense().shape) == (2, *SHAPE)


def test_the_rest_is_nearly_the_best_of_its_rank_and_of_its_length():
    delta = noise() * torch.linspace(0.2, 3, N).view(-1, 1, 1, 1)
    size = delta.flatten(1).norm(dim=1)
    one, best = store(), truncated(delta, RANK).norm() / size
    for number, share in ((0, 0.95), (1, 0.98)):
        epoch(one, number, delta)
        found = shown(one, number + 1)
        same(found.flatten(1).norm(dim=1) / size, torch.ones(N), 5e-4)
        assert int(torch.linalg.matrix_rank(found, rtol=1e-4).max()) == RANK
        kept = (found * delta).flatten(1).sum(1) / size.square()
        assert (kept.square() >= share * best.square()).all()


def test_a_store_of_some_rank_in_images_as_small_as_it_keeps_all():
    with pytest.warns(UserWarning, match="give a lower rank"):
        one = PerturbationStore(2, (1, 3, 5), 3)
    delta = noise(n=2, shape=(1, 3, 5))
    one.begin(0)
    one.save(ALL[:2], delta)
    one.commit()
    one.begin(1)
    same(one.load(ALL[:2]).dense(), delta)


def test_an_epoch_reads_only_what_the_one_before_wrote(tmp_path):
    for path in (None, tmp_path):
        one = epoch(store(path), 0, thin(1))
        before = shown(one, 1)
        one.save(ALL, thin(2))
        assert torch.equal(one.load(ALL).dense(), before)
        one.commit()
        same(shown(one, 2), thin(2).dense())


def test_unseen_rows_are_zero_and_rows_not_written_survive(tmp_path):
    for path in (None, tmp_path):
        one = store(path)
        one.begin(0)
        one.save(ALL[1:3], thin(1).rows(ALL[1:3]))
        assert not one.seen(ALL).any()
        assert one.progress == pytest.approx(2 / N)
        one.commit()
        found = shown(one, 1)
        assert one.seen(ALL).tolist() == [False, True, True, False, False, False]
        assert one.seen(torch.tensor([5, 1, 1])).tolist() == [False, True, True]
        assert (found.flatten(1).norm(dim=1) > 0).tolist() == one.seen(ALL).tolist()
        one.save(ALL[2:4], thin(2).rows(ALL[2:4]))
        one.commit()
        again = shown(one, 2)
        assert one.progress == 2
        assert torch.equal(again[1], found[1])
        same(again[2:4], thin(2).dense()[2:4])
        assert one.seen(ALL).tolist() == [False, True, True, True, False, False]


def test_forget_reads_nothing_and_keeps_nothing(tmp_path):
    for path in (None, tmp_path):
        one = epoch(store(path), 0, thin(1))
        epoch(one, 1, thin(2).rows(ALL[:1]), ALL[:1], forget=True)
        found = shown(one, 2)
        assert one.seen(ALL).tolist() == [True] + [False] * 5
        assert not found[1:].any()
    one.begin(2, forget=True)
    assert not one.load(ALL).dense().any()
    same(shown(store(path), 2), found, 0)  # the file is still there for a run that begins the epoch again


@pytest.mark.parametrize("rank", [RANK, "full"])
def test_files_give_what_memory_gives(tmp_path, rank, monkeypatch):
    found = []
    for path in (None, tmp_path / "a", tmp_path / "b"):
        if path == tmp_path / "b":
            monkeypatch.delattr(os, "posix_fallocate", raising=False)  # as on macOS
        one = store(path, rank)
        for number in range(3):
            epoch(one, number, noise(number)[: N - number], ALL[: N - number])
        found.append(shown(one, 3))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (tmp_path / "b" / "epoch-000003.perturbations").stat().st_size == one.nbytes


@pytest.mark.parametrize("moment", ["after begin", "in the middle", "after commit", "after the next begin"])
def test_a_new_process_goes_on_where_the_last_epoch_ended(tmp_path, moment):
    whole = store()
    for number in range(3):
        epoch(whole, number, noise(number))
    one = epoch(store(tmp_path), 0, noise(0))
    one.begin(1)
    if moment != "after begin":
        one.save(ALL[:3], noise(1)[:3] if moment == "after commit" else noise(9)[:3])
    if moment == "after commit":
        one.save(ALL[3:], noise(1)[3:])
        one.commit()  # and no checkpoint of it: the epoch is begun again
    if moment == "after the next begin":
        one = store(tmp_path)
        one.begin(1)
        one.save(ALL, noise(8))
    del one
    again = store(tmp_path)
    assert again.found == (2 if moment == "after commit" else 1)
    for number in (1, 2):
        epoch(again, number, noise(number))
    assert torch.equal(shown(again, 3), shown(whole, 3))
    assert sorted(contents(tmp_path)) == ["epoch-000003.perturbations", WRITING]


def in_another_process(body, folder):
    head = "import os, resource, sys, torch; from art_lowrank.training import PerturbationStore; "
    code = f"{head} one = PerturbationStore({N}, {SHAPE}, {RANK}, sys.argv[1]); " + body
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's")
def test_a_killed_process_leaves_the_epoch_before(tmp_path):
    epoch(store(tmp_path), 0, noise())
    before = contents(tmp_path)
    body = "one.begin(1); one.save(torch.arange(3), torch.ones(3, 2, 20, 24)); os.kill(os.getpid(), 9)"
    done = in_another_process(body, tmp_path)
    assert done.returncode == -9, done.stderr
    assert contents(tmp_path)[FIRST] == before[FIRST]
    assert sorted(contents(tmp_path)) == [FIRST, WRITING]
    again, whole = store(tmp_path), epoch(store(), 0, noise())
    assert torch.equal(shown(again, 1), shown(whole, 1))
    again.commit()
    assert contents(tmp_path)[SECOND] == before[FIRST]


@pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's")
@pytest.mark.parametrize("way", ["asked", "real"])
def test_a_full_disk_is_one_line_and_leaves_the_epoch_before(tmp_path, monkeypatch, way):
    epoch(store(tmp_path), 0, noise())
    before = contents(tmp_path)
    if way == "asked":
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
        with pytest.raises(OSError, match="No space") as caught:
            store(tmp_path).begin(1)
        message = str(caught.value)
        monkeypatch.undo()
    else:
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); one.begin(1)"
        done = in_another_process(limit, tmp_path)
        assert done.returncode == 1
        message = done.stderr.strip().splitlines()[-1]
    assert WRITING in message
    assert "was not made" in message
    assert "make room or give another folder" in message
    assert "\n" not in message
    assert contents(tmp_path) == before
    same(shown(store(tmp_path), 1), shown(epoch(store(), 0, noise()), 1), 0)


def test_two_files_at_most_and_nbytes_is_the_size_of_one(tmp_path):
    one = store(tmp_path)
    for number in range(3):
        one.begin(number)
        names = [FIRST.replace("1", str(number)), WRITING] if number else [WRITING]
        assert sorted(contents(tmp_path)) == names
        one.save(ALL, noise(number))
        one.commit()
        assert len(contents(tmp_path)) <= 2
        assert {len(data) for data in contents(tmp_path).values()} == {one.nbytes}
    (tmp_path / "notes.txt").write_text("mine")
    erase(tmp_path, but=3)
    assert sorted(contents(tmp_path)) == ["epoch-000003.perturbations", "notes.txt"]
    erase(tmp_path)
    assert sorted(contents(tmp_path)) == ["notes.txt"]
    erase(tmp_path / "new" / "folder")
    assert contents(tmp_path / "new" / "folder") == {}


def test_epoch_0_begins_anew(tmp_path):
    one = epoch(epoch(store(tmp_path), 0, noise()), 1, noise(1))
    assert not shown(one, 0).any()
    assert sorted(contents(tmp_path)) == [WRITING]


@pytest.mark.parametrize(
    ("n", "shape", "rank", "gigabytes"),
    [
        (50_000, (3, 32, 32), 3, 0.0576),
        (1_281_167, (3, 224, 224), 3, 10.331),
        (50_000, (3, 32, 32), "full", 0.3072),
        (1_281_167, (3, 224, 224), "full", 385.70),
    ],
)
def test_sizes_are_those_the_readme_tells(n, shape, rank, gigabytes):
    assert PerturbationStore(n, shape, rank).nbytes == pytest.approx(gigabytes * 1e9, rel=2e-3)
