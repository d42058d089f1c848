"""Factors: products, files, ranks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank import Factors
from art_lowrank.attack.balls import length
from art_lowrank.attack.factors import identity, resolve_rank, truncated


def factors(n=3, c=2, h=7, w=5, rank=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(n, c, h, rank, generator=generator), torch.randn(n, c, rank, w, generator=generator))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saved_and_loaded(tmp_path, dtype):
    before = factors()
    before.save(tmp_path / "f.safetensors", dtype=dtype)
    after = Factors.load(tmp_path / "f.safetensors")
    assert after.left.dtype == torch.float32
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(after.dense(), before.dense(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(after.norm(), before.norm(), rtol=1e-5, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


def test_float16_takes_half_the_space(tmp_path):
    big = factors(n=50, c=3, h=32, w=32, rank=3)
    for dtype in (torch.float32, torch.float16):
        big.save(tmp_path / str(dtype), dtype=dtype)
    sizes = [(tmp_path / str(dtype)).stat().st_size for dtype in (torch.float32, torch.float16)]
    assert sizes[1] < 0.55 * sizes[0]
    assert big.nbytes == 50 * 3 * 3 * 64 * 4


def test_float16_has_no_range_problem(tmp_path):
    given = factors()
    extreme = Factors(given.left * 1e5, given.right * 1e-13)
    extreme.save(tmp_path / "f", dtype=torch.float16)
    after = Factors.load(tmp_path / "f")
    torch.testing.assert_close(after.dense() * 1e8, extreme.dense() * 1e8, atol=2e-2, rtol=2e-2)


def test_float64_images_stay_exact():
    given = factors()
    x = torch.rand(3, 2, 7, 5, dtype=torch.float64)
    assert torch.equal(Factors(given.left * 0, given.right).apply(x), x)


def test_bad_files_and_types(tmp_path):
    with pytest.raises(ValueError, match=r"torch\.float64"):
        factors().save(tmp_path / "f", dtype=torch.float64)
    (tmp_path / "broken").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match=r"broken is not a file of factors"):
        Factors.load(tmp_path / "broken")
    with pytest.raises(FileNotFoundError):
        Factors.load(tmp_path / "absent")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    factors(seed=1).save(tmp_path / "f")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        factors(seed=2).save(tmp_path / "f")
    monkeypatch.undo()
    torch.testing.assert_close(Factors.load(tmp_path / "f").dense(), factors(seed=1).dense())
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_apply_checks_shapes_and_keeps_the_type():
    given = factors()
    with pytest.raises(ValueError, match=r"\(3, 2, 7, 5\) do not fit images \(3, 2, 5, 7\)"):
        given.apply(torch.zeros(3, 2, 5, 7))
    x = torch.rand(3, 2, 7, 5).half()
    applied = given.apply(x)
    assert applied.dtype == torch.float16
    assert applied.min() >= 0
    assert applied.max() <= 1
    assert (length(applied.double() - x.double()) <= given.norm() * (1 + 1e-6)).all()


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 9), w=st.integers(1, 9), rank=st.integers(1, 9), seed=st.integers(0, 99))
def test_truncation_is_the_best_of_its_rank(h, w, rank, seed):
    delta = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    best = truncated(delta, rank)
    tail = torch.linalg.svdvals(delta)[..., rank:].square().sum((1, 2)).sqrt()
    torch.testing.assert_close(length(delta - best.dense()), tail, atol=1e-4, rtol=1e-4)
    assert best.rank == min(rank, h, w)


def test_identity_scales_and_rows():
    delta = torch.randn(3, 2, 4, 6)
    whole = identity(delta)
    assert torch.equal(whole.dense(), delta)
    torch.testing.assert_close(whole.scaled(torch.tensor([0.0, 1.0, 2.0])).dense()[2], 2 * delta[2])
    assert torch.equal(whole.rows(torch.tensor([2, 0])).dense(), delta[[2, 0]])
    assert repr(whole) == "Factors(3 images of 2 x 4 x 6, rank 6)"


@pytest.mark.parametrize(
    ("rank", "size", "expected"),
    [
        (3, (32, 32), 3),
        (0.1, (32, 32), 3),
        (0.1, (224, 224), 22),
        (0.5, (28, 30), 14),
        (0.01, (8, 8), 1),
        ("full", (5, 9), 5),
    ],
)
def test_ranks(rank, size, expected):
    assert resolve_rank(rank, *size) == expected
