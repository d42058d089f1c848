"""A store dealt out to several processes: who keeps what, in which files, and who can read them later."""

from __future__ import annotations

import shutil

import pytest
import torch

from art_lowrank.training import PerturbationStore
from art_lowrank.training.rows import erase

N, SHAPE = 11, (1, 6, 6)
ALL = torch.arange(N)


def store(path, shard=(0, 1), **given):
    return PerturbationStore(**{"n": N, "shape": SHAPE, "rank": "full", "path": path, "shard": shard, **given})


def images(epoch, indices=ALL):
    return torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(epoch))[indices]


def mine(shard):
    return ALL[ALL % shard[1] == shard[0]]


def epoch(path, size, number, skip=()):
    """An epoch by so many processes, all but some of whose images are shown."""
    stores = [store(path, (rank, size)) for rank in range(size)]
    for one in stores:
        one.begin(number)
    for one in stores:
        shown = [index for index in mine(one.shard).tolist() if index not in skip]
        one.save(torch.tensor(shown, dtype=torch.long), images(number, shown))
    for one in stores:
        one.commit()


def held(path, shard, number):
    one = store(path, shard)
    one.begin(number)
    return one.load(mine(shard)).dense(), one.seen(mine(shard))


@pytest.mark.parametrize("before", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 6])
def test_any_number_of_processes_goes_on_where_any_other_stopped(tmp_path, before, after):
    epoch(tmp_path, before, 0, skip=(3,))
    epoch(tmp_path, after, 1, skip=(3, 4, 10))
    for rank in range(before):
        found, seen = held(tmp_path, (rank, before), 2)
        wanted = torch.where(torch.tensor([i in (4, 10) for i in range(N)]).view(-1, 1, 1, 1), images(0), images(1))
        rows = mine((rank, before))
        assert seen.tolist() == [index != 3 for index in rows.tolist()]
        assert torch.allclose(found[seen], wanted[rows][seen], atol=2e-3)
        assert not found[~seen].any()
    names = sorted(path.name for path in tmp_path.glob("epoch-000002*"))
    assert names == sorted(
        f"epoch-000002{'' if after == 1 else f'.{rank}-of-{after}'}.perturbations" for rank in range(after)
    )


def test_each_keeps_only_its_own_rows(tmp_path):
    sizes = [store(None, (rank, 3)).nbytes for rank in range(3)]
    whole = store(None).nbytes
    assert sum(sizes) < whole + 3 * 4300
    assert "4 images" in repr(store(None, (0, 3)))
    assert "3 images" in repr(store(None, (2, 3)))
    epoch(tmp_path, 3, 0)
    assert [path.stat().st_size for path in sorted(tmp_path.iterdir())] == sizes


@pytest.mark.parametrize("path", [None, "files"])
def test_an_image_of_another_process_is_refused(tmp_path, path):
    one = store(path and tmp_path, (1, 3))
    one.begin(0)
    one.save(torch.tensor([1, 4]), images(0)[:2])
    for act in (lambda: one.save(ALL[:2], images(0)[:2]), lambda: one.load(ALL[:2]), lambda: one.seen(ALL[:2])):
        with pytest.raises(ValueError, match="image 0 belongs to process 0 of 3, not to 1; give each process the"):
            act()
    one.commit()
    one.begin(1)
    assert one.seen(mine((1, 3))).tolist() == [True, True, False, False]


def test_a_process_needs_no_files_of_others_if_they_stay_as_many(tmp_path):
    """As on disks of several machines."""
    epoch(tmp_path, 2, 0)
    (tmp_path / "epoch-000001.1-of-2.perturbations").unlink()
    assert torch.allclose(held(tmp_path, (0, 2), 1)[0], images(0, mine((0, 2))), atol=2e-3)
    epoch(tmp_path / "four", 4, 0)
    (tmp_path / "four" / "epoch-000001.1-of-4.perturbations").unlink()
    held(tmp_path / "four", (0, 2), 1)  # whose images are those of 0 and 2 of 4
    for shard in ((1, 2), (0, 1), (1, 4), (0, 3)):
        with pytest.raises(ValueError, match=r"epoch-000001\.1-of-4\.perturbations is missing, one of 4.*from noise"):
            store(tmp_path / "four", shard).begin(1)


def test_files_of_another_shard_under_a_wrong_name_are_refused(tmp_path):
    epoch(tmp_path, 2, 0)
    first, second = sorted(tmp_path.iterdir())
    first.replace(tmp_path / "aside")
    second.replace(first)
    with pytest.raises(ValueError, match=r"holds perturbations with shard \[1, 2\], asked is \[0, 2\]"):
        store(tmp_path, (0, 2)).begin(1)


def test_nobody_erases_what_another_one_writes(tmp_path):
    epoch(tmp_path, 2, 0)
    for name in ("writing.perturbations", "writing.2-of-3.perturbations", "epoch-000007.perturbations"):
        shutil.copy(tmp_path / "epoch-000001.0-of-2.perturbations", tmp_path / name)  # of runs that were killed
    one, other = store(tmp_path, (0, 2)), store(tmp_path, (1, 2))
    one.begin(1)
    one.save(ALL[:1], images(0)[:1])
    other.begin(1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{kind}.{rank}-of-2.perturbations" for kind in ("epoch-000001", "writing") for rank in (0, 1)}
    one.commit(), other.commit()
    erase(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0), (0, 12), (0,), 3, (0.0, 2), None, "01"])
def test_shards_that_are_none(shard):
    with pytest.raises(ValueError, match=r"shard is .*; give \(number of a process, count of processes\)"):
        store(None, shard)
