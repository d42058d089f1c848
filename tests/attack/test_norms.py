"""Balls by definition: norms by hand, projections that nothing in the ball beats, budgets after every rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_lowrank.attack.balls import clamp
from art_lowrank.attack.norms import L2, GroupNuclear, Linf, Nuclear, simplex, tiles, untiled

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BALLS = [L2(), Linf(), Nuclear(), GroupNuclear(3)]
names = [type(ball).__name__ for ball in BALLS]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_on_bounds(*shape, seed=0):
    """Images of which two pixels in five lie exactly on 0 or 1."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((x - 0.5) * 5 / 3 + 0.5).clamp(0, 1)


def of(ball, eps):
    """Radii in the shape the ball wants."""
    return eps.reshape(-1, 1, 1, 1) if isinstance(ball, Linf) else eps


def by_hand(ball, delta):
    """The norms of (n, c, h, w), with NumPy and loops."""
    delta = delta.double().numpy()
    if isinstance(ball, L2):
        return [np.sqrt((image**2).sum()) for image in delta]
    if isinstance(ball, Linf):
        return [np.abs(image).max() for image in delta]
    if isinstance(ball, Nuclear):
        return [sum(np.linalg.svd(channel)[1].sum() for channel in image) for image in delta]
    t = ball.tile
    totals = []
    for image in delta:
        total = 0.0
        for i in range(0, image.shape[1], t):
            for j in range(0, image.shape[2], t):
                tile = np.concatenate([channel[i : i + t, j : j + t] for channel in image])
                total += np.linalg.svd(tile)[1].sum()
        totals.append(total)
    return totals


def bisected(values, eps):
    """The projection of numbers >= 0 on the l1 ball, its threshold by bisection."""
    if values.sum() <= eps:
        return values
    low, high = 0.0, float(values.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (values - middle).clamp_min(0).sum() > eps else (low, middle)
    return (values - high).clamp_min(0)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.7, 3.0, 100.0])
def test_simplex_is_the_projection_on_the_l1_ball(eps):
    values = normal(6, 3, 4).abs()
    values[1] = 0
    values[2] = 0.25  # all the same
    values[3, 1:] = 0
    found = simplex(values, torch.full((6,), eps, dtype=torch.float64))
    assert found.shape == values.shape
    for row, expected in zip(found, values, strict=True):
        torch.testing.assert_close(row, bisected(expected, eps), atol=1e-12, rtol=1e-12)


def test_simplex_takes_a_radius_an_image_and_leaves_what_fits():
    values = torch.tensor([[3.0, 1.0], [3.0, 1.0], [3.0, 1.0]])
    assert simplex(values, torch.tensor([4.0, 3.0, 1.0])).tolist() == [[3.0, 1.0], [2.5, 0.5], [1.0, 0.0]]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 5, 7), (1, 2, 7, 4), (3, 3, 1, 1)])
@pytest.mark.parametrize("tile", [1, 3, 4, 9])
def test_tiles_and_back(shape, tile):
    x = normal(*shape)
    blocks = tiles(x, tile)
    rows, columns = -(-shape[2] // tile), -(-shape[3] // tile)
    assert blocks.shape == (shape[0], rows * columns, shape[1] * tile, tile)
    assert torch.equal(untiled(blocks, x, tile), x)
    assert blocks.square().sum() == pytest.approx(float(x.square().sum()))
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(tiles(strided, tile), blocks)


def test_tiles_by_hand():
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    last = tiles(x, 2)[0, 3]  # below on the right: the last row, filled up, and the last two columns
    assert last.tolist() == [[10.0, 11.0], [0.0, 0.0], [22.0, 23.0], [0.0, 0.0]]


@pytest.mark.parametrize("ball", BALLS, ids=names)
@pytest.mark.parametrize("shape", [(4, 3, 7, 8), (2, 1, 5, 7)])
def test_excess_is_the_norm_in_units_of_the_radius(ball, shape):
    delta, eps = normal(*shape), torch.linspace(0.5, 2, shape[0], dtype=torch.float64)
    expected = torch.tensor(by_hand(ball, delta), dtype=torch.float64) / eps
    torch.testing.assert_close(ball.excess(delta, of(ball, eps)), expected)
    assert ball.excess(delta.float(), of(ball, eps)).dtype == torch.float64


def test_excess_of_l_inf_is_that_of_the_worst_pixel():
    delta = torch.tensor([0.1, -0.3, 0.0, 0.2]).reshape(1, 1, 2, 2)
    eps = torch.tensor([0.1, 0.1, 0.0, 0.4]).reshape(1, 1, 2, 2)
    assert Linf().excess(delta, eps).tolist() == pytest.approx([3.0])
    assert Linf().excess(delta, eps * torch.tensor([1, 1, 1, 0]).reshape(1, 1, 2, 2)).tolist() == [torch.inf]


@pytest.mark.parametrize("ball", BALLS, ids=names)
@pytest.mark.parametrize("radius", [0.3, 2.0, 100.0])
def test_nothing_in_the_ball_is_nearer_than_the_projection(ball, radius):
    delta, eps = normal(5, 2, 6, 7), of(ball, torch.full((5,), radius, dtype=torch.float64))
    found = ball.project(delta, eps)
    assert (ball.excess(found, eps) <= 1 + 1e-9).all()
    torch.testing.assert_close(ball.project(found, eps), found, atol=1e-9, rtol=0)
    fits = ball.excess(delta, eps) <= 1
    torch.testing.assert_close(found[fits], delta[fits], atol=1e-9, rtol=0)
    for seed in range(
        20
    ):  # towards any point q of the ball the way back makes an obtuse angle: <delta - p, q - p> <= 0
        other = ball.project(normal(5, 2, 6, 7, seed=seed + 1) * 3 ** (seed % 5 - 2), eps)
        assert (((delta - found) * (other - found)).sum((1, 2, 3)) <= 1e-7).all()


@pytest.mark.parametrize("ball", BALLS, ids=names)
def test_random_starts_lie_at_the_edge(ball):
    eps = of(ball, torch.tensor([0.2, 1.0, 3.0]))
    found = ball.spread(normal(1, 3, 8, 8).float(), eps)
    torch.testing.assert_close(ball.excess(found, eps), torch.ones(3).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("ball", BALLS, ids=names)
def test_steps_follow_the_gradient(ball):
    gradient = normal(2, 3, 4, 4)
    size = torch.linalg.vector_norm(gradient, dim=(1, 2, 3))
    found = ball.along(gradient, size)
    assert torch.equal(found.sign(), gradient.sign())
    expected = [48.0, 48.0] if isinstance(ball, Linf) else [1.0, 1.0]
    torch.testing.assert_close(found.square().sum((1, 2, 3)), torch.tensor(expected).double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e-3, 0.3, 10.0])
def test_l_inf_holds_for_every_pixel_after_rounding(dtype, scale):
    x = half_on_bounds(4, 3, 6, 5).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    eps = (scale * torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(3))).to(wide)
    eps[:, :, 2] = 0
    for size in (0.5, 3.0):
        delta = size * scale * normal(4, 3, 6, 5, seed=4).to(wide)
        moved, changed = Linf().fit(x, delta, eps, (0.0, 1.0))
        assert moved.dtype == dtype
        assert (moved >= 0).all()
        assert (moved <= 1).all()
        assert ((moved.double() - x.double()).abs() <= eps.double() * (1 + 1e-6)).all()
        assert torch.equal(moved[:, :, 2], x[:, :, 2])
        wanted = (x.double() + torch.minimum(torch.maximum(delta.double(), -eps.double()), eps.double())).clamp(0, 1)
        assert (moved.double() - wanted).abs().max() <= torch.finfo(dtype).eps  # a float below 1 back, at most
        rounded = clamp(x.to(wide) + Linf().project(delta, eps), (0.0, 1.0)).to(dtype)
        assert torch.equal(moved[~changed], rounded[~changed])
    assert Linf().fit(x, delta, eps, None)[0].shape == x.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)], ids=str)
def test_no_image_is_given_up_for_its_rounding(dtype, box):
    """In half precision shortening by less than half a float changes nothing, and may leave the image too long."""
    x = torch.rand(400, 3, 6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    delta = normal(400, 3, 6, 5).to(torch.promote_types(dtype, torch.float32))
    for ball, radius in ((L2(), 0.1), (L2(), 0.7), (Nuclear(), 0.7)):
        eps = torch.full((400,), radius).to(delta)
        edge = delta / ball.excess(delta, eps).to(delta).reshape(-1, 1, 1, 1)
        moved, _ = ball.fit(x, edge, eps, box)
        realised = ball.excess(moved.double() - x.double(), eps.double())
        assert (realised <= 1 + 1e-6).all()
        assert (realised >= 0.8).all()


@pytest.mark.parametrize("ball", BALLS, ids=names)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("radius", [0.0, 1e-8, 1e-3, 0.3, 10.0])
def test_every_budget_holds_after_rounding_and_box(ball, dtype, radius):
    x = half_on_bounds(3, 2, 7, 5).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    eps = torch.full((3,), radius, dtype=wide)
    for size in (0.01, 1.0, 30.0):
        delta = ball.project((size * radius * normal(3, 2, 7, 5)).to(wide), of(ball, eps))
        moved, changed = ball.fit(x, delta, of(ball, eps), (0.0, 1.0))
        realised = torch.tensor(by_hand(ball, moved.double() - x.double()))
        assert (realised <= eps.double() * (1 + 1e-6)).all()
        assert moved.min() >= 0
        assert moved.max() <= 1
        if dtype == torch.float32 and radius in (0.3, 10.0) and size == 1.0:
            assert (realised > 0.09 * radius).all()  # and it is not just the images themselves
        if dtype == torch.float64 and size == 0.01 and radius > 1e-8:
            assert not changed.any()
