"""Moves against plain slicing, padding and flipping, on images and on factors, there and back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank.attack.factors import Factors, identity
from art_lowrank.training import Moves
from art_lowrank.training.indexed import resized

SIZE, FAR = (7, 5), 40  # of images, rows and columns; more than any shift
signs = st.sampled_from([1, -1])
shifts = st.integers(-9, 12)
moves_of_three = st.lists(st.tuples(signs, signs, shifts, shifts), min_size=3, max_size=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, size=SIZE, channels=2):
    return torch.randn(n, channels, *size, generator=seeded())


def factors(n, rank=2, channels=2):
    left = torch.randn(n, channels, SIZE[0], rank, generator=seeded(1))
    return Factors(left, torch.randn(n, channels, rank, SIZE[1], generator=seeded(2)))


def moves(numbers):
    numbers = torch.tensor(numbers).float()
    return Moves(numbers[:, :2], numbers[:, 2:])


def sliced(x, move, size):
    """Row i shows row scale * i + shift, by a wide border of zeros, slices and flips; for one move on all images."""
    x = nnf.pad(x, (FAR,) * 4)
    for axis, (scale, shift, length) in enumerate(zip(move[:2], move[2:], size, strict=True), start=-2):
        first = FAR + shift if scale == 1 else FAR + shift - length + 1
        x = x.narrow(axis, first, length)
        x = x if scale == 1 else x.flip(axis)
    return x


def still_inside(move, size):
    """Pixels of an image that the moved one of this size shows."""
    on = []
    for scale, shift, stored, length in zip(move[:2], move[2:], SIZE, size, strict=True):
        place = scale * (torch.arange(stored) - shift)
        on.append((place >= 0) & (place < length))
    return on[0][:, None] & on[1][None]


@pytest.mark.parametrize("size", [SIZE, (4, 9), (1, 1), (12, 3)])
@settings(deadline=None, max_examples=30)
@given(found=moves_of_three)
def test_images_move_as_by_slicing(found, size):
    x = images(3)
    expected = torch.cat([sliced(x[k : k + 1], move, size) for k, move in enumerate(found)])
    assert torch.equal(moves(found).images(x, size), expected)


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ((1, 1, 0, 0), lambda x: x),
        ((-1, 1, 6, 0), lambda x: x.flip(2)),
        ((1, -1, 0, 4), lambda x: x.flip(3)),
        ((-1, -1, 6, 4), lambda x: x.flip(2, 3)),
        ((1, 1, 3, 0), lambda x: nnf.pad(x[:, :, 3:], (0, 0, 0, 3))),
        ((1, 1, -3, 0), lambda x: nnf.pad(x[:, :, :-3], (0, 0, 3, 0))),
        ((1, 1, 0, -2), lambda x: nnf.pad(x[..., :-2], (2, 0))),
        ((1, 1, 7, 0), torch.zeros_like),
        ((1, 1, 0, -5), torch.zeros_like),
        ((1, 1, 1e6, 0), torch.zeros_like),
    ],
)
def test_moves_mean_what_their_docstring_says(move, expected):
    x = images(2)
    assert torch.equal(moves([move] * 2).images(x, SIZE), expected(x))


@pytest.mark.parametrize("size", [SIZE, (4, 9)])
@settings(deadline=None, max_examples=30)
@given(found=moves_of_three)
def test_factors_move_as_their_product(found, size):
    one, move = factors(3), moves(found)
    moved = move.factors(one, size)
    assert moved.left.shape[2:] == (size[0], 2)
    assert moved.right.shape[2:] == (2, size[1])
    torch.testing.assert_close(moved.dense(), move.images(one.dense(), size), rtol=0, atol=1e-6)
    x = images(3)
    assert torch.equal(move.factors(identity(x), size).dense(), move.images(x, size))


@pytest.mark.parametrize("size", [SIZE, (4, 9), (9, 8)])
@settings(deadline=None, max_examples=30)
@given(found=moves_of_three)
def test_there_and_back_is_the_identity_inside_and_zero_outside(found, size):
    x, move = images(3), moves(found)
    expected = torch.stack([image * still_inside(one, size) for image, one in zip(x, found, strict=True)])
    assert torch.equal(move.inverse().images(move.images(x, size), SIZE), expected)
    assert torch.equal(move.inverse().factors(move.factors(identity(x), size), SIZE).dense(), expected)


@settings(deadline=None, max_examples=50)
@given(first=moves_of_three, second=moves_of_three)
def test_then_is_one_after_the_other(first, second):
    x, between, size = images(3), (8, 9), (6, 6)
    one, two = moves(first), moves(second)
    shown = two.images(one.images(x, between), size)
    kept = two.images(torch.ones(3, 1, *between), size)  # what leaves the frame between is lost on the way only
    assert torch.equal(shown, one.then(two).images(x, size) * kept)


@settings(deadline=None, max_examples=30)
@given(first=moves_of_three, second=moves_of_three, third=moves_of_three)
def test_then_is_a_group(first, second, third):
    a, b, c = map(moves, (first, second, third))
    none = Moves.none(3)
    for left, right in (
        (a.then(b).then(c), a.then(b.then(c))),
        (a.then(a.inverse()), none),
        (a.inverse().then(a), none),
        (a.then(none), a),
        (none.then(a), a),
        (a.then(b).inverse(), b.inverse().then(a.inverse())),
    ):
        assert all(map(torch.equal, left, right))


def test_none_changes_nothing():
    x, one = images(3), factors(3)
    assert torch.equal(Moves.none(3).images(x, SIZE), x)
    assert all(map(torch.equal, Moves.none(3).factors(one, SIZE), one))


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("flip", [True, False])
def test_random_moves_are_padded_crops_and_flips(padding, flip):
    n, size = 2000, (9, 6)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    move = Moves.random(n, size, seeded(), padding=padding, flip=flip)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, move, Moves.random(n, size, seeded(), padding=padding, flip=flip)))
    mirrored = move.scale[:, 1] == -1
    assert torch.equal(move.scale[:, 0], torch.ones(n))
    assert set(move.scale[:, 1].tolist()) == ({1.0, -1.0} if flip else {1.0})
    assert 0.45 < mirrored.float().mean() < 0.55 or not flip
    down, across = move.shift[:, 0], move.shift[:, 1] - mirrored * (size[1] - 1)
    for drawn in (down, across):
        values, counts = drawn.unique(return_counts=True)
        assert values.tolist() == list(range(-padding, padding + 1))
        assert counts.min() > 0.7 * n / (2 * padding + 1)
    if padding:
        assert abs(torch.corrcoef(torch.stack([down, across]))[0, 1]) < 0.1
        assert not torch.equal(move.shift, Moves.random(n, size, seeded(1), padding=padding, flip=flip).shift)


def test_random_moves_show_crops_of_bordered_images():
    x = images(20, (9, 6))
    move = Moves.random(20, (9, 6), seeded(), padding=2)
    wide = nnf.pad(x, (2,) * 4)
    for image, shown in zip(wide, move.images(x, (9, 6)), strict=True):
        crops = [image[:, i : i + 9, j : j + 6] for i in range(5) for j in range(5)]
        assert any(torch.equal(shown, found) for crop in crops for found in (crop, crop.flip(2)))


@pytest.mark.parametrize("index", [torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 3)])
def test_rows_are_the_moves_of_some_images(index):
    move = Moves.random(3, SIZE, seeded())
    some = move.rows(index)
    assert torch.equal(some.scale, move.scale[index])
    assert torch.equal(some.shift, move.shift[index])
    x = images(3)
    assert torch.equal(some.images(x[index], SIZE), move.images(x, SIZE)[index])


@pytest.mark.parametrize("size", [(16, 20), (11, 7), (8, 30), (5, 3), (1, 1), (8, 10)])
def test_resizing_is_bilinear_interpolation_inside(size):
    stored = (8, 10)
    x = images(3, stored)
    move = Moves(*(part.expand(3, 2) for part in resized(stored, size)))
    expected = nnf.interpolate(x, size, mode="bilinear", align_corners=False)
    inner = []
    for old, new in zip(stored, size, strict=True):
        place = (torch.arange(new) + 0.5) * old / new - 0.5
        inner.append(((place >= 0) & (place <= old - 1)).nonzero().flatten())
    rows, columns = inner
    assert len(rows)
    assert len(columns)
    shown = move.images(x, size)
    torch.testing.assert_close(shown[:, :, rows][..., columns], expected[:, :, rows][..., columns], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(14, 10), (10, 8), (4, 3)])
def test_factors_are_resized_and_turned_as_their_product(size):
    one = factors(3)
    move = Moves(*(part.expand(3, 2) for part in resized(SIZE, size))).then(Moves.random(3, size, seeded(), padding=2))
    torch.testing.assert_close(move.factors(one, size).dense(), move.images(one.dense(), size), rtol=0, atol=1e-5)


def test_resizing_there_and_back_keeps_what_is_smooth():
    ramp = torch.arange(8.0)[:, None] + 2 * torch.arange(10.0)
    move = resized((8, 10), (16, 20))
    back = move.inverse().images(move.images(ramp[None, None], (16, 20)), (8, 10))
    torch.testing.assert_close(back[0, 0, 1:-1, 1:-1], ramp[1:-1, 1:-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_dtype_stays_and_nothing_given_is_changed(dtype, scale):
    x, move = images(2).to(dtype), Moves(torch.full((2, 2), scale), torch.tensor([[1.0, -1.0]] * 2))
    given = [part.clone() for part in (x, *move)]
    assert move.images(x, SIZE).dtype == dtype
    assert {part.dtype for part in move.inverse().factors(identity(x), SIZE)} == {dtype}
    assert all(map(torch.equal, (x, *move), given))


def test_every_image_has_its_own_move():
    x, move = images(6), Moves.random(6, SIZE, seeded(5))
    alone = [move.rows(torch.tensor([k])).images(x[k : k + 1], SIZE) for k in range(6)]
    assert torch.equal(move.images(x, SIZE), torch.cat(alone))
