"""Penalties against autograd, closed forms of proxes, and what they do to a spectrum."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_lowrank.weights import LowRankConv2d, LowRankLinear, factorize, low_rank_layers, penalise, shrink
from art_lowrank.weights.penalties import shape_of, shrunk, soft, spectral_gradient, spectral_penalty


def vectors(count):
    return [torch.randn(n, dtype=torch.float64) for n in (1, 2, 5, 9)][:count]


def matrices(count):
    return [torch.randn(n, m, dtype=torch.float64) for n, m in ((1, 1), (2, 2), (5, 5), (9, 9), (3, 5), (6, 2))][:count]


# RobustDLRT's regulariser


def test_the_penalty_is_the_spread_of_the_squares():
    """R^2 = sum (sigma^2 - mean sigma^2)^2 = r Var(sigma^2)."""
    assert spectral_penalty(torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(math.sqrt(98 / 3))
    for core in (*vectors(4), *matrices(6)):
        sigma = core.abs().numpy() if core.ndim == 1 else np.linalg.svd(core.numpy(), compute_uv=False)
        assert spectral_penalty(core).item() == pytest.approx(math.sqrt(len(sigma) * np.var(sigma**2)), abs=1e-12)


def test_its_gradient_is_autograds():
    for core in (*vectors(4)[1:], *matrices(6)[1:]):
        core.requires_grad_()
        (expected,) = torch.autograd.grad(spectral_penalty(core), core)
        torch.testing.assert_close(spectral_gradient(core.detach()), expected)
        assert torch.autograd.gradcheck(spectral_penalty, core)


@pytest.mark.parametrize(
    "core",
    [
        torch.full((4,), 3.0),
        torch.tensor([2.0, -2.0, 2.0]),
        torch.zeros(3),
        torch.zeros(3, 3),
        torch.linalg.qr(torch.ones(4, 4) + torch.eye(4)).Q * 5,
        torch.ones(1),
        torch.full((3,), 1e-20),
        torch.eye(3) * 1e15,
    ],
)
def test_it_is_zero_at_flat_spectra(core):
    assert spectral_penalty(core).item() == pytest.approx(0, abs=1e-5 * max(1, core.abs().max().item() ** 2))
    gradient = spectral_gradient(core)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 2 * max(core.abs().max().item(), 1e-30)
    if core.ndim == 1:
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_spread(dtype):
    """Squares and their mean differ by a rounding; divided by that, the gradient would be of full size."""
    draw = torch.Generator().manual_seed(0)
    for rank in (3, 7, 10, 40):
        for value in (0.1, 0.7, 3.3, 1e4):
            assert not spectral_gradient(torch.full((rank,), value, dtype=dtype)).any()
            q = torch.linalg.qr(torch.randn(rank, rank, generator=draw, dtype=dtype)).Q
            assert not spectral_gradient(value * q).any()


def test_it_does_not_see_rotations_and_a_diagonal_core_is_its_vector():
    core = torch.randn(5, 5).double()
    p, q = (torch.linalg.qr(torch.randn(5, 5).double()).Q for _ in range(2))
    torch.testing.assert_close(spectral_penalty(p @ core @ q), spectral_penalty(core))
    torch.testing.assert_close(spectral_gradient(p @ core @ q), p @ spectral_gradient(core) @ q)
    torch.testing.assert_close(spectral_penalty(core.mT), spectral_penalty(core))
    s = torch.randn(5).double()
    torch.testing.assert_close(spectral_penalty(s.diag()), spectral_penalty(s))
    torch.testing.assert_close(spectral_gradient(s.diag()), spectral_gradient(s).diag())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_it_bounds_the_condition_number(seed, rank):
    """The paper's: kappa <= exp(R / (sqrt(2) sigma_r^2))."""
    core = torch.randn(rank, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sigma = torch.linalg.svdvals(core)
    bound = spectral_penalty(core) / (math.sqrt(2) * sigma[-1] ** 2)
    assert (sigma[0] / sigma[-1]).log() <= bound * (1 + 1e-9)


def test_penalise_adds_beta_times_the_gradient_to_every_core():
    net = nn.Sequential(LowRankConv2d(3, 8, 3, 4), nn.Flatten(), LowRankLinear(128, 20, 5), LowRankLinear(20, 5, 2))
    for layer in low_rank_layers(net).values():
        nn.init.uniform_(layer.weight_s)
    net[3].weight_s = nn.Parameter(torch.rand(2, 2))
    twin = copy.deepcopy(net)
    x = torch.randn(4, 3, 6, 6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = penalise(net, optimizer, beta=0.3)
    net(x).square().mean().backward()
    optimizer.step()
    loss = twin(x).square().mean() + 0.3 * sum(spectral_penalty(m.weight_s) for m in low_rank_layers(twin).values())
    loss.backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    handle.remove()
    net.zero_grad()
    before = copy.deepcopy(net.state_dict())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_penalty_flattens_the_spectrum():
    net = nn.Sequential(LowRankLinear(20, 20, 6))
    net[0].weight_s.data.copy_(torch.arange(1.0, 7))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    penalise(net, optimizer, beta=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        (0 * net(torch.randn(2, 20)).sum()).backward()
        optimizer.step()
    assert net[0].cond() < 1.05


def test_a_core_without_gradient_is_left_alone():
    net = nn.Sequential(LowRankLinear(9, 8, 3), LowRankLinear(8, 7, 3))
    net[0].weight_s.data.copy_(torch.arange(1.0, 4))
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[1].parameters(), lr=0.1)
    penalise(net, optimizer, beta=1.0)
    net(torch.randn(2, 9)).sum().backward()
    optimizer.step()
    assert net[0].weight_s.tolist() == [1, 2, 3]


@pytest.mark.parametrize("beta", [-0.1, math.nan])
def test_a_weight_below_zero_is_refused(beta):
    net = nn.Sequential(LowRankLinear(9, 8, 3))
    with pytest.raises(ValueError, match=f"beta is {beta!r}; give a weight of at least 0"):
        penalise(net, torch.optim.SGD(net.parameters(), lr=0.1), beta=beta)


def test_a_penalty_needs_low_rank_layers_and_the_optimizer_that_trains_them():
    net = nn.Sequential(nn.Linear(9, 8))
    with pytest.raises(ValueError, match="no low-rank layer"):
        penalise(net, torch.optim.SGD(net.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    factorize(net, ranks={"0": 2})
    with pytest.raises(ValueError, match=r"does not hold 0\.weight_u"):
        penalise(net, optimizer)


@pytest.mark.parametrize("attach", [lambda net, o: penalise(net, o)])
def test_a_closure_is_refused_because_its_gradients_come_too_late(attach):
    net = nn.Sequential(LowRankLinear(9, 8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    attach(net, optimizer)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: net(torch.randn(2, 9)).sum())


# Proxes


def test_proxes_of_a_diagonal_matrix():
    m = torch.diag(torch.tensor([3.0, -1.0, 0.2])).double()
    torch.testing.assert_close(shrunk(m, 0.5), torch.diag(torch.tensor([2.5, -0.5, 0.0])).double())
    torch.testing.assert_close(soft(m, 0.5), torch.diag(torch.tensor([2.5, -0.5, 0.0])).double())
    torch.testing.assert_close(shrunk(m, 0.0), m)
    torch.testing.assert_close(soft(m, 0.0), m)
    assert not shrunk(m, 3.0).abs().gt(1e-12).any()
    assert not soft(m, 3.0).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3), st.sampled_from([(4, 6), (6, 4), (5, 5), (1, 5)]))
def test_proxes_beat_whatever_is_near(seed, threshold, shape):
    """prox(W) minimises |X - W|^2 / 2 + threshold |X|."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=draw, dtype=torch.float64)
    for prox, norm in ((shrunk, lambda x: torch.linalg.svdvals(x).sum()), (soft, lambda x: x.abs().sum())):

        def objective(x, norm=norm):
            return (x - w).square().sum() / 2 + threshold * norm(x)

        best = prox(w, threshold)
        for size in (1e-4, 1e-2, 1.0):
            for _ in range(5):
                other = best + size * torch.randn(shape, generator=draw, dtype=torch.float64)
                assert objective(best) <= objective(other) + 1e-12
        assert objective(best) <= min(objective(w), objective(torch.zeros_like(w)), objective(0.9 * best)) + 1e-12


# Proximal training


def spectrum(layer):
    return np.linalg.svd(layer.weight.detach().flatten(1).double().numpy(), compute_uv=False)


@pytest.mark.parametrize("every", [1, 3])
def test_the_threshold_is_rate_times_weight_times_steps(every):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 6))
    optimizer = torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.4}]
    )
    before = [spectrum(net[0]), spectrum(net[2])]
    handle = shrink(net, optimizer, nuclear=0.02, every=every)
    for step in range(1, 7):
        optimizer.step()  # without gradients: nothing else moves
        due = step // every * every
        for layer, start, rate in zip((net[0], net[2]), before, (0.1, 0.4), strict=True):
            assert spectrum(layer) == pytest.approx((start - rate * 0.02 * due).clip(0), abs=1e-5)
    assert handle.steps == 6


def test_what_is_due_is_done_at_the_end_and_once():
    net = nn.Sequential(nn.Linear(9, 6))
    before = spectrum(net[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    handle = shrink(net, optimizer, nuclear=0.01, every=4)
    for _ in range(6):
        optimizer.step()
    for _ in range(2):
        handle.enforce()
        assert spectrum(net[0]) == pytest.approx((before - 6 * 0.005).clip(0), abs=1e-5)
    for _ in range(4):
        optimizer.step()
    assert spectrum(net[0]) == pytest.approx((before - 10 * 0.005).clip(0), abs=1e-5)
    handle.remove()
    optimizer.step()
    optimizer.step()
    assert spectrum(net[0]) == pytest.approx((before - 10 * 0.005).clip(0), abs=1e-5)


def test_entries_are_shrunk_by_the_sparse_weight():
    net = nn.Sequential(nn.Linear(9, 6))
    before = net[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    handle = shrink(net, optimizer, nuclear=0, sparse=0.1, every=2)
    optimizer.step()
    optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), soft(before, 0.1))
    density = (net[0].weight != 0).double().mean().item()
    assert 0 < density < 1
    assert handle.shapes()["0"].density == density


def test_nuclear_comes_before_sparse():
    net = nn.Sequential(nn.Linear(9, 6))
    before = net[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    shrink(net, optimizer, nuclear=0.2, sparse=0.05, every=1)
    optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), soft(shrunk(before, 0.2), 0.05))


def test_training_with_the_nuclear_norm_finds_a_planted_rank():
    """Least squares with 2 useful directions: the others are driven to exactly nothing."""
    planted = torch.randn(12, 2) @ torch.randn(2, 15)
    x = torch.randn(200, 15)
    y = x @ planted.mT + 0.05 * torch.randn(200, 12)
    net = nn.Sequential(nn.Linear(15, 12, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    handle = shrink(net, optimizer, nuclear=0.1, every=5)
    first = handle.shapes()["0"]
    for _ in range(200):
        optimizer.zero_grad()
        ((net(x) - y).square().sum(1).mean() / 2).backward()
        optimizer.step()
    last = handle.shapes()["0"]
    assert (first.rank, last.rank) == (12, 2)
    assert last.entropy_rank < 2.01 < first.entropy_rank
    assert handle.notes() == {"shapes": {"0": last._asdict()}}
    assert (net[0].weight - planted).norm() < 0.1 * planted.norm()


def test_the_place_between_two_proxes_is_saved():
    net = nn.Sequential(nn.Linear(9, 6))
    handle = shrink(net, torch.optim.SGD(net.parameters(), lr=0.5), every=4)
    handle.load_state_dict({"steps": 3})
    assert handle.state_dict() == {"steps": 3}
    before = spectrum(net[0])
    handle.optimizer.step()
    assert spectrum(net[0]) == pytest.approx((before - 4 * 0.5 * 1e-3).clip(0), abs=1e-5)


def test_shape_of_known_matrices():
    kernel = torch.zeros(3, 2, 1, 2)
    kernel.flatten(1)[range(3), range(3)] = torch.tensor([2.0, 1.0, 1.0])
    rank, entropy, density = shape_of(kernel)
    assert (rank, density) == (3, 0.25)
    assert entropy == pytest.approx(2**1.5)
    assert shape_of(torch.zeros(3, 3)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nuclear": -1}, "nuclear is -1; give a weight of at least 0"),
        ({"nuclear": math.nan}, "nuclear is nan"),
        ({"sparse": -0.5}, "sparse is -0.5"),
        ({"every": 0}, "every is 0; give a number of steps of at least 1"),
        ({"every": 1.5}, "every is 1.5"),
        ({"every": True}, "every is True"),
    ],
)
def test_bad_options_are_refused(options, message):
    net = nn.Sequential(nn.Linear(9, 6))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        shrink(net, optimizer, **options)
    assert not optimizer._optimizer_step_post_hooks


def test_shrink_needs_dense_layers_that_the_optimizer_trains():
    low = nn.Sequential(LowRankLinear(9, 8, 3))
    with pytest.raises(ValueError, match="no Linear or Conv2d layer to shrink"):
        shrink(low, torch.optim.SGD(low.parameters(), lr=0.1))
    net, other = nn.Sequential(nn.Linear(9, 6)), nn.Linear(9, 6)
    with pytest.raises(ValueError, match=r"the optimizer does not hold 0\.weight"):
        shrink(net, torch.optim.SGD(other.parameters(), lr=0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shrink_refuses_half_precision(dtype):
    net = nn.Sequential(nn.Linear(9, 6)).to(dtype)
    with pytest.raises(ValueError, match="keep them in float32"):
        shrink(net, torch.optim.SGD(net.parameters(), lr=0.1))
