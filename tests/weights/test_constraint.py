"""cond(W) <= max_cond by numpy's measure: at once, after every step, after loading, whatever the optimizer does."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_lowrank.weights import LowRankConv2d, LowRankLinear, constrain, factorize
from art_lowrank.weights.retraction import banded, condition, distortion, orthonormal, retracted, svd_of

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=3.0, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1.0),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0),
}
BOUNDS = [1.001, 1.1, 1.5, 10.0]


def lopsided():
    """Layers of several shapes and ranks, two of them alike, with spectra and bases that need work."""
    net = nn.Sequential(
        LowRankConv2d(2, 6, 3, 4, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        LowRankLinear(96, 40, 12),
        nn.Tanh(),
        LowRankLinear(40, 40, 12, bias=False),
        nn.Tanh(),
        LowRankLinear(40, 40, 12),
        LowRankLinear(40, 5, 1),
    )
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "weight" in name:
                p.copy_(torch.randn_like(p))
    return net


def low_rank(net):
    return [m for m in net if isinstance(m, LowRankConv2d | LowRankLinear)]


def backward(net, x):
    net.zero_grad()
    loss = nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 5)
    loss.backward()
    return loss


@pytest.mark.parametrize("max_cond", BOUNDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bound_holds_at_once_and_after_every_step(name, max_cond, cond64, skewness):
    net, x = lopsided(), torch.randn(7, 2, 4, 4)
    x = x.expand(7, 2, 4, 4)
    optimizer = OPTIMIZERS[name](net.parameters())
    handle = constrain(net, optimizer, max_cond=max_cond)
    moved = False
    for _ in range(8):
        for layer in low_rank(net):
            assert cond64(layer) <= max_cond
            assert skewness(layer) < 1e-5
            assert (layer.weight_s > 0).all()
            assert layer.max_cond == max_cond
        assert handle.cond() == pytest.approx({n: cond64(m) for n, m in net.named_children() if m in low_rank(net)})
        before = net[3].weight_u.clone()
        backward(net, x)
        optimizer.step()
        moved = moved or not torch.allclose(before, net[3].weight_u, atol=1e-3)
    assert moved


@pytest.mark.parametrize("max_cond", BOUNDS)
def test_the_bound_holds_in_large_layers_of_both_formats(max_cond, cond64, skewness):
    single = nn.Sequential(LowRankLinear(300, 200, 200), LowRankLinear(200, 300, 150), LowRankLinear(300, 10, 10))
    for net in (single, copy.deepcopy(single).double()):
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        constrain(net, optimizer, max_cond=max_cond)
        for _ in range(2):
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
            assert max(map(cond64, net)) <= max_cond
            assert max(map(skewness, net)) < 1e-5


def test_lbfgs_steps_are_held_too(cond64):
    net, x = lopsided(), torch.randn(7, 2, 4, 4)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4)
    constrain(net, optimizer, max_cond=1.2)
    for _ in range(4):
        before = net[3].weight_u.clone()
        optimizer.step(lambda: backward(net, x))
        assert (net[3].weight_u - before).abs().max() > 1e-3
        assert max(map(cond64, low_rank(net))) <= 1.2


def test_what_is_just_below_the_bound_is_used(cond64):
    """A band that is far narrower than allowed would hold the bound too."""
    for max_cond in BOUNDS:
        net = nn.Sequential(LowRankLinear(40, 30, 20))
        net[0].weight_s.data.copy_(torch.cat([torch.full((10,), 1e-3), torch.full((10,), 1e3)]))
        constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=max_cond)
        assert 0.9999 * max_cond <= cond64(net[0]) <= max_cond
        least = (1e-3 + max_cond * 1e3) / (1 + max_cond**2)  # of (a - 1e-3)^2 + (max_cond a - 1e3)^2
        expected = [least] * 10 + [max_cond * least] * 10
        assert net[0].weight_s.tolist() == pytest.approx(expected, rel=2e-5)


def test_one_is_allowed_and_holds_to_rounding(cond64):
    net = lopsided()
    constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=1)
    assert max(map(cond64, low_rank(net))) <= 1 + 2e-6
    assert all(len(set(layer.weight_s.tolist())) == 1 for layer in low_rank(net))


def test_infinity_only_makes_the_factors_orthonormal(skewness, cond64):
    net = lopsided()
    spectra = [layer.weight_s.detach().abs().clone() for layer in low_rank(net)]
    spectra[1][3] = net[3].weight_s.data[3] = 0
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    constrain(net, optimizer, max_cond=math.inf)
    for layer, s in zip(low_rank(net), spectra, strict=True):
        assert skewness(layer) < 1e-5
        assert torch.equal(layer.weight_s, s)
    backward(net, torch.randn(7, 2, 4, 4))
    optimizer.step()
    assert max(map(skewness, low_rank(net))) < 1e-5
    assert max(map(cond64, low_rank(net))) > 2


def test_equal_shapes_together_are_the_same_as_one_by_one(monkeypatch):
    net = lopsided()
    alone = copy.deepcopy(net)
    for layer in low_rank(alone):
        layer.max_cond = 1.3
        layer.retract_()
    sizes = []
    constraint = constrain.__globals__
    found = constraint["retracted"]
    monkeypatch.setitem(constraint, "retracted", lambda u, *rest: sizes.append(len(u)) or found(u, *rest))
    constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=1.3)
    assert sorted(sizes) == [1, 1, 1, 2]
    for a, b in zip(net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_alike_layers_keep_their_own_bounds_on_the_way(cond64):
    net = nn.Sequential(LowRankLinear(9, 8, 3), LowRankLinear(9, 8, 3))
    net[0].weight_s.data.copy_(torch.tensor([3.0, 1.0, 1.0]))
    net[1].weight_s.data.copy_(torch.tensor([64.0, 64.0, 1.0]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    constrain(net, optimizer, max_cond=2.0, over=4)
    for step in range(4):
        bounds = [2 * 1.5 ** (1 - step / 4), 2 * 32 ** (1 - step / 4)]
        assert [layer.max_cond for layer in net] == pytest.approx(bounds, rel=1e-4)
        assert cond64(net[0]) <= net[0].max_cond
        assert bounds[0] < cond64(net[1]) <= net[1].max_cond
        optimizer.step()


def test_alike_layers_of_two_formats(cond64):
    net = nn.Sequential(*(LowRankLinear(90, 80, 60, dtype=d) for d in (torch.float32, torch.float64)))
    for p in net.parameters():
        nn.init.normal_(p)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    constrain(net, optimizer, max_cond=1.001)
    assert max(map(cond64, net)) <= 1.001
    assert [layer.weight_u.dtype for layer in net] == [torch.float32, torch.float64]


def test_signs_move_into_u_and_w_stays(product):
    net = nn.Sequential(LowRankLinear(9, 8, 4))
    net[0].weight_s.data.copy_(torch.tensor([1.0, -1.1, 1.2, -1.3]))
    before = product(net[0])
    constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=3)
    assert net[0].weight_s.tolist() == pytest.approx([1, 1.1, 1.2, 1.3])
    assert product(net[0]) == pytest.approx(before, abs=1e-6)


def test_what_satisfies_the_bound_hardly_moves(product):
    """Neither QR nor clamp may turn or scale factors that need nothing."""
    net = nn.Sequential(LowRankLinear(30, 20, 5))
    u, v = net[0].weight_u.clone(), net[0].weight_v.clone()
    net[0].weight_s.data.copy_(torch.tensor([1.1, 1.0, 1.05, 0.95, 1.0]))
    before = product(net[0])
    handle = constrain(net, torch.optim.SGD(net.parameters(), lr=0.1), max_cond=1.5)
    for _ in range(20):
        handle.enforce()
    assert product(net[0]) == pytest.approx(before, abs=2e-6)
    torch.testing.assert_close(net[0].weight_u, u, atol=2e-6, rtol=0)
    torch.testing.assert_close(net[0].weight_v, v, atol=2e-6, rtol=0)


def test_loading_is_held_too(cond64):
    net = lopsided()
    violating = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    constrain(net, optimizer, max_cond=1.3)
    net.load_state_dict(violating)
    assert max(map(cond64, low_rank(net))) <= 1.3
    assert {layer.max_cond for layer in low_rank(net)} == {1.3}
    backward(net, torch.randn(7, 2, 4, 4))
    optimizer.step()
    assert max(map(cond64, low_rank(net))) <= 1.3


def test_over_tightens_step_by_step_from_where_each_layer_is(cond64):
    net = nn.Sequential(LowRankLinear(20, 16, 6), LowRankLinear(16, 20, 4), LowRankLinear(20, 3, 2))
    net[0].weight_s.data.copy_(torch.tensor([24.0, 20, 16, 12, 2, 1]))
    net[1].weight_s.data.copy_(torch.tensor([6.0, 5, 4, 1]))
    first = [24.0, 6.0, 1.0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    handle = constrain(net, optimizer, max_cond=1.5, over=8)
    for step in range(11):
        bounds = [layer.max_cond for layer in net]
        for bound, cond, start in zip(bounds, map(cond64, net), first, strict=True):
            expected = 1.5 * max(1.0, start / 1.5) ** (1 - min(step, 8) / 8)
            assert bound == pytest.approx(max(expected, 1.5), rel=1e-4)
            assert cond <= bound
        if step >= 8:
            assert bounds == [1.5] * 3
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
        assert handle.ready == (step >= 7)
    assert handle.steps == 11


def test_over_goes_on_where_it_was():
    def begun():
        net = nn.Sequential(LowRankLinear(20, 16, 6))
        net[0].weight_s.data.copy_(torch.tensor([24.0, 20, 16, 12, 2, 1]))
        return net, torch.optim.SGD(net.parameters(), lr=0.0)

    net, optimizer = begun()
    handle = constrain(net, optimizer, max_cond=1.5, over=8)
    for _ in range(3):
        optimizer.step()
    other, anew = begun()
    resumed = constrain(other, anew, max_cond=1.5, over=8)
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(copy.deepcopy(handle.state_dict()))
    for _ in range(6):
        optimizer.step()
        anew.step()
        assert other[0].max_cond == net[0].max_cond
        torch.testing.assert_close(other[0].weight_s, net[0].weight_s)
    assert net[0].max_cond == 1.5


def test_a_layer_that_lost_rank_comes_down_gradually_too(product):
    """A singular value of 0 has an infinite condition number, which no constant factor brings down."""
    net = nn.Sequential(LowRankLinear(20, 16, 4))
    net[0].weight_s.data.copy_(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    constrain(net, optimizer, max_cond=1.5, over=10)
    bounds = [net[0].max_cond]
    for _ in range(10):
        optimizer.step()
        bounds.append(net[0].max_cond)
    assert all(math.isfinite(bound) for bound in bounds)
    ratios = np.divide(bounds[1:], bounds[:-1])
    assert ratios == pytest.approx(np.full(10, ratios[0]))


def test_frozen_factors_need_no_optimizer(cond64):
    net = lopsided()
    net[3].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    constrain(net, optimizer, max_cond=1.4)
    assert max(map(cond64, low_rank(net))) <= 1.4
    backward(net, torch.randn(7, 2, 4, 4))
    optimizer.step()
    assert max(map(cond64, low_rank(net))) <= 1.4


def test_frozen_layers_hold_still(product):
    net = nn.Sequential(LowRankLinear(9, 8, 4), LowRankLinear(8, 5, 2))
    net[0].weight_s.data.copy_(torch.tensor([10.0, 1.0, 1.0, 1.0]))
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[1].parameters(), lr=1.0)
    constrain(net, optimizer, max_cond=1.4)
    before = product(net[0])
    for _ in range(5):
        optimizer.step()
    assert product(net[0]) == pytest.approx(before, abs=1e-5)


def test_enforcing_twice_is_enforcing_once(product):
    net = lopsided()
    handle = constrain(net, torch.optim.SGD(net.parameters(), lr=1.0), max_cond=1.4)
    before = [product(layer) for layer in low_rank(net)]
    handle.enforce()
    for layer, w in zip(low_rank(net), before, strict=True):
        assert product(layer) == pytest.approx(w, abs=1e-4)


def test_over_begins_with_the_weights_as_they_are(product):
    """A steep spectrum, as pretrained nets have: at its own condition number nothing may move, a step later little."""
    net = nn.Sequential(LowRankLinear(40, 40, 12))
    net[0].weight_s.data.copy_(10 * 0.8 ** torch.arange(12.0))
    before = product(net[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    constrain(net, optimizer, max_cond=1.5, over=100)
    assert np.linalg.norm(product(net[0]) - before) < 1e-4 * np.linalg.norm(before)
    optimizer.step()
    assert np.linalg.norm(product(net[0]) - before) < 0.02 * np.linalg.norm(before)


@pytest.mark.parametrize("factor", ["weight_u", "weight_s", "weight_v"])
def test_an_optimizer_without_a_factor_is_refused(factor):
    net = lopsided()
    before = copy.deepcopy(net.state_dict())
    missing = getattr(net[5], factor)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p is not missing], lr=1.0)
    with pytest.raises(ValueError, match=rf"the optimizer does not hold 5\.{factor}; call factorize\(model, optim"):
        constrain(net, optimizer)
    assert not optimizer._optimizer_step_post_hooks
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_remove_lets_go(cond64):
    net = lopsided()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    handle = constrain(net, optimizer, max_cond=1.1)
    handle.remove()
    handle.remove()
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert max(map(cond64, low_rank(net))) > 1.1
    handle.enforce()
    assert max(map(cond64, low_rank(net))) <= 1.1


def test_steps_count_only_steps_and_copies_go_free():
    net = nn.Sequential(LowRankLinear(9, 8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    handle = constrain(net, optimizer)
    handle.enforce()
    assert handle.steps == 0
    optimizer.step()
    optimizer.step(lambda: torch.zeros(()))
    assert handle.steps == 2
    copy.deepcopy(optimizer).step()
    assert handle.steps == 2
    assert handle.max_cond == 1.5


def test_an_empty_group_of_the_optimizer_does_no_harm(cond64):
    net = nn.Sequential(LowRankLinear(9, 8, 3))
    nn.init.normal_(net[0].weight_u)
    optimizer = torch.optim.SGD([{"params": []}, {"params": net.parameters()}], lr=1.0)
    constrain(net, optimizer)
    optimizer.step()
    assert cond64(net[0]) <= 1.5


def test_works_under_autocast_with_a_scaler_and_a_scheduler(cond64):
    net, x = lopsided(), torch.randn(7, 2, 4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    constrain(net, optimizer, max_cond=1.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(net(x), torch.arange(7) % 5)).backward()
            scaler.step(optimizer)
            scaler.update()
        scheduler.step()
        assert max(map(cond64, low_rank(net))) <= 1.2


@pytest.mark.parametrize("max_cond", [0.99, 0, -1, math.nan, True, False, "1.5", None, 1j, -math.inf])
def test_a_bound_that_is_none_is_refused(max_cond):
    net = lopsided()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"max_cond is .*; a condition number is at least 1, give for instance 1.5"):
        constrain(net, optimizer, max_cond=max_cond)
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("over", [-1, 2.0, True, None, math.nan])
def test_a_number_of_steps_that_is_none_is_refused(over):
    net = lopsided()
    with pytest.raises(ValueError, match=f"over is {over!r}; give the number of steps"):
        constrain(net, torch.optim.SGD(net.parameters(), lr=1.0), over=over)


@pytest.mark.parametrize("max_cond", [1.5, math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype, max_cond):
    net = factorize(nn.Sequential(nn.Linear(20, 20)).to(dtype), keep=0.7)
    with pytest.raises(ValueError, match=f"0 has parameters of {dtype}, too coarse .*; keep them in float32"):
        constrain(net, torch.optim.SGD(net.parameters(), lr=1.0), max_cond=max_cond)


def test_a_net_without_low_rank_layers_is_refused(net):
    with pytest.raises(ValueError, match="the model has no low-rank layer; call factorize"):
        constrain(net, torch.optim.SGD(net.parameters(), lr=1.0))


def test_weights_that_are_no_numbers_are_no_crash():
    """Whoever trains must get to say what happened."""
    net = nn.Sequential(LowRankLinear(9, 8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    handle = constrain(net, optimizer)
    (net(torch.randn(2, 9)).sum() * math.nan).backward()
    optimizer.step()
    assert not handle.cond()["0"] <= 1.5
    other = nn.Sequential(LowRankLinear(9, 8, 3))
    constrain(other, torch.optim.SGD(other.parameters(), lr=1.0))
    other.load_state_dict(net.state_dict())
    assert other[0].weight_u.isnan().all()


# The pieces it is made of


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(1.001, 100), st.floats(-3, 3), st.booleans())
def test_retraction_holds_the_bound_for_any_factors(seed, rank, max_cond, scale, double):
    draw = torch.Generator().manual_seed(seed)
    kind = torch.float64 if double else torch.float32
    u, s, v = (torch.randn(shape, generator=draw, dtype=kind) for shape in ((3, 14, rank), (3, rank), (3, 12, rank)))
    s = s * 10**scale
    found = retracted(u, s, v, torch.full((3,), max_cond))
    for u_, s_, v_ in zip(*found, strict=True):
        w = u_.double() * s_.double() @ v_.double().mT
        values = np.linalg.svd(w.numpy(), compute_uv=False)
        assert values[0] <= max_cond * values[rank - 1]
        assert condition(u_, s_, v_) == pytest.approx(values[0] / values[rank - 1], rel=1e-9)


def test_orthonormal_columns_turn_as_little_as_they_can():
    q = torch.linalg.qr(torch.randn(9, 4).double()).Q * torch.tensor([1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(orthonormal(q), q)
    torch.testing.assert_close(orthonormal(q @ torch.triu(torch.rand(4, 4).double() + 0.1)), q)
    dependent = orthonormal(torch.cat([q, q[:, :1], torch.zeros(9, 1).double()], 1))
    torch.testing.assert_close(dependent.mT @ dependent, torch.eye(6).double())
    torch.testing.assert_close(dependent[:, :4], q)


def test_distortion_bounds_the_condition_number():
    for size in (0.0, 1e-6, 1e-3, 0.05):
        q = torch.linalg.qr(torch.randn(30, 8).double()).Q + size * torch.randn(30, 8).double()
        error = (q.mT @ q - torch.eye(8).double()).norm()
        if error < 1:
            assert torch.linalg.cond(q) <= distortion(q) * (1 + 1e-12)
            assert distortion(q).item() == pytest.approx(((1 + error) / (1 - error)).sqrt().item())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-3, 0.5, 1.0, 1.5, 7.0]) | st.floats(1e-3, 1e3), min_size=1, max_size=9),
    st.floats(1, 50) | st.sampled_from([1.0, 1.5, 2.0]),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_the_band_is_the_nearest(values, ratio, scale):
    """No other band of this ratio is nearer in the sum of squares; which one, a grid and its refinement tell."""
    s = torch.tensor(values, dtype=torch.float64) * scale
    found = banded(s[None], torch.tensor([ratio]))[0]
    assert found.max() <= ratio * found.min() * (1 + 1e-12)
    assert (found > 0).all()
    floors = torch.linspace(0, s.max().item(), 2001, dtype=torch.float64)[:, None]
    floors = torch.cat([floors, found.min() * torch.linspace(0.999, 1.001, 21, dtype=torch.float64)[:, None]])
    others = (s.clamp_min(floors).minimum(ratio * floors) - s).square().sum(1)
    assert (found - s).square().sum() <= others.min() + 1e-6 * s.square().sum() + 1e-22


def test_bands_of_known_spectra():
    s = torch.tensor([[0.0, 1.0, 2.0, 5.0], [2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 2.0, 1.5]]).double()
    found = banded(s, torch.tensor([3.0, 3.0, 3.0]))
    # a^2 + (a - 1)^2 + (3 a - 5)^2 is least at a = 16 / 11
    torch.testing.assert_close(found[0], torch.tensor([16 / 11, 16 / 11, 2, 48 / 11]).double(), rtol=1e-6, atol=0)
    assert torch.equal(found[1], s[1])
    assert torch.equal(banded(s[2:], torch.tensor([3.001])), s[2:]), "within the bound"
    flat = banded(torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([1.0]))
    assert flat.tolist() == [[3, 3, 3]]
    assert torch.equal(banded(s, torch.full((3,), math.inf)), s)
    mixed = banded(s[:1].expand(2, 4), torch.tensor([math.inf, 3.0]))
    assert torch.equal(mixed[0], s[0])
    assert torch.equal(mixed[1], found[0])
    assert (banded(torch.zeros(1, 3), torch.tensor([1.5])) > 0).all()


def test_svd_of_is_eckart_youngs_in_the_weights_format():
    w = torch.randn(9, 6)
    u, s, v = svd_of(w, 4)
    assert {u.dtype, s.dtype, v.dtype} == {torch.float32}
    values = np.linalg.svd(w.double().numpy(), compute_uv=False)
    assert np.linalg.norm((w - u * s @ v.mT).numpy(), 2) == pytest.approx(values[4], rel=1e-5)


def test_condition_of_any_factors_and_of_lost_rank():
    u, core, v = torch.randn(9, 3).double(), torch.randn(3, 3).double(), torch.randn(7, 3).double()
    values = np.linalg.svd((u @ core @ v.mT).numpy(), compute_uv=False)
    assert condition(u, core, v) == pytest.approx(values[0] / values[2], rel=1e-9)
    assert condition(u, core.diag(), v) == pytest.approx(condition(u, core.diag().diag(), v))
    assert condition(u, torch.tensor([1.0, 2.0, 0.0]).double(), v) == math.inf
    assert condition(torch.zeros(4, 2), torch.ones(2), torch.ones(3, 2)) == math.inf
