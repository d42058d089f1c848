"""RobustDLRT's pieces against their formulas, then a whole cycle, then a planted rank."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from art_lowrank.weights import LowRankConv2d, LowRankLinear, adapt, factorize, penalise, ranks_of, stored
from art_lowrank.weights.dlrt import narrow, tolerated, widen

FACTORS = ("weight_u", "weight_s", "weight_v")


def sgd(net, lr=0.05, momentum=0.9):
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)


def adam(net, lr=0.01):
    return torch.optim.Adam(net.parameters(), lr=lr)


def layer_with_gradients(rows=14, columns=17, rank=3, make=sgd):
    """A layer in float64, an optimizer that holds it, and W's gradient through a random loss."""
    net = nn.Sequential(LowRankLinear(columns, rows, rank)).double()
    nn.init.uniform_(net[0].weight_s, 0.5, 2)
    net[0].retract_()
    x, y = torch.randn(30, columns).double(), torch.randn(30, rows).double()
    optimizer = make(net)
    backward(net, x, y)
    return net[0], optimizer, net, x, y


def backward(net, x, y):
    net.zero_grad()
    loss = (net(x) - y).square().sum(-1).mean()
    loss.backward()
    return loss


def spans(basis, columns):
    """All columns lie in the span of the orthonormal basis."""
    rest = columns - basis @ (basis.mT @ columns)
    return rest.norm() <= 1e-9 * columns.norm()


def is_orthonormal(basis, tolerance=1e-10):
    return (basis.mT @ basis - torch.eye(basis.shape[1], dtype=basis.dtype)).abs().max() <= tolerance


@pytest.mark.parametrize(("rows", "columns"), [(14, 17), (5, 17), (17, 4), (6, 6), (4, 5)])
def test_widening_keeps_w_and_contains_the_gradient(rows, columns):
    layer, optimizer, net, x, y = layer_with_gradients(rows, columns)
    w, u, v = layer.matrix.detach(), layer.weight_u.detach(), layer.weight_v.detach()
    gradients = layer.weight_u.grad, layer.weight_v.grad
    widen(layer, optimizer)
    assert layer.weight_s.shape == (min(6, rows), min(6, columns))
    torch.testing.assert_close(layer.matrix.detach(), w)
    for factor, old, gradient in zip((layer.weight_u, layer.weight_v), (u, v), gradients, strict=True):
        basis = factor.detach()
        assert is_orthonormal(basis)
        torch.testing.assert_close(basis[:, :3], old)
        assert spans(basis, gradient)
    assert [getattr(layer, name).requires_grad for name in FACTORS] == [False, True, False]
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in layer.parameters()}
    for made in (layer.dense(), layer.pair()):
        torch.testing.assert_close(made(x), net(x))
    other = nn.Sequential(LowRankLinear(columns, rows, 2)).double()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    backward(net, x, y)
    optimizer.step()
    layer.reset_parameters()
    assert layer.cond() == pytest.approx(1, abs=1e-5)


def test_a_rectangular_core_of_a_convolution():
    conv = LowRankConv2d(2, 5, 3, 3, padding=1, groups=1).double()
    optimizer = sgd(nn.Sequential(conv))
    x = torch.randn(3, 2, 6, 6).double()
    before = conv(x)
    before.square().sum().backward()
    widen(conv, optimizer)
    assert conv.weight_s.shape == (5, 6)
    for made in (conv, conv.dense(), conv.pair()):
        torch.testing.assert_close(made(x), before)


def test_widening_by_a_gradient_that_is_in_the_basis_or_zero():
    for factor in (1.0, 1e-300, 0.0):
        layer, optimizer, _, _, _ = layer_with_gradients()
        w = layer.matrix.detach()
        layer.weight_u.grad = layer.weight_u.detach() * factor
        layer.weight_v.grad = layer.weight_v.grad * 1e200
        widen(layer, optimizer)
        assert is_orthonormal(layer.weight_u.detach())
        assert is_orthonormal(layer.weight_v.detach())
        torch.testing.assert_close(layer.matrix.detach(), w)


def test_a_layer_without_gradient_keeps_its_bases():
    layer, optimizer, net, _, _ = layer_with_gradients()
    net.zero_grad()
    w = layer.matrix.detach()
    widen(layer, optimizer)
    assert layer.rank == 3
    torch.testing.assert_close(layer.matrix.detach(), w)


@pytest.mark.parametrize("rank", [1, 4, 6, 9])
def test_narrowing_is_the_truncated_svd(rank):
    layer, optimizer, _, _, _ = layer_with_gradients()
    widen(layer, optimizer)
    with torch.no_grad():
        layer.weight_s.copy_(torch.randn(6, 6))
    w = layer.matrix.detach().numpy()
    u, s, vt = np.linalg.svd(w)
    narrow(layer, rank, optimizer)
    rank = min(rank, 6)
    assert [tuple(getattr(layer, name).shape) for name in FACTORS] == [(14, rank), (rank,), (17, rank)]
    assert layer.matrix.detach().numpy() == pytest.approx(u[:, :rank] * s[:rank] @ vt[:rank], abs=1e-10)
    assert layer.weight_s.detach().numpy() == pytest.approx(s[:rank])
    assert is_orthonormal(layer.weight_u.detach())
    assert is_orthonormal(layer.weight_v.detach())
    assert all(p.requires_grad for p in layer.parameters())
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in layer.parameters()}


@pytest.mark.parametrize(
    ("values", "tolerance", "rank"),
    [
        ([4.0, 3.0, 0.0, 0.0], 0.1, 2),
        ([1.0, 1.0, 1.0, 1.0], 0.1, 4),
        ([1.0, 1.0, 1.0, 1.0], 0.75, 2),  # 2 dropped: sqrt(2 / 4) = 0.71
        ([1.0, 1.0, 1.0, 1.0], 0.7, 3),
        ([10.0, 1.0, 0.1, 0.01], 0.2, 2),
        ([10.0, 1.0, 0.1, 0.01], 0.05, 2),
        ([10.0, 1.0, 0.2, 0.01], 0.0199, 3),  # 0.2 / 10.05 = 0.0199, and a little more with 0.01
        ([10.0, 0.0, 0.0], 0.5, 2),  # the paper's smallest rank
        ([10.0], 0.5, 1),
        ([0.0, 0.0, 0.0], 0.1, 2),
    ],
)
def test_the_tolerance_rule(values, tolerance, rank):
    values = torch.tensor(values)
    assert tolerated(values, tolerance) == rank
    size = values.double().norm()
    assert values[rank:].double().norm() <= tolerance * size
    assert rank <= min(2, len(values)) or values[rank - 1 :].double().norm() > tolerance * size


def test_moments_of_the_core_move_with_the_bases():
    """m -> L m R and v -> (L sqrt(v) R)^2 with L, R the changes of basis, from Adam's own state."""
    layer, optimizer, net, x, y = layer_with_gradients(make=adam)
    widen(layer, optimizer)
    for _ in range(3):
        backward(net, x, y)
        optimizer.step()
    u, v = layer.weight_u.detach(), layer.weight_v.detach()
    state = {name: value.clone() for name, value in optimizer.state[layer.weight_s].items()}
    narrow(layer, 4, optimizer)
    left, right = layer.weight_u.detach().mT @ u, v.mT @ layer.weight_v.detach()
    moved = optimizer.state[layer.weight_s]
    torch.testing.assert_close(moved["exp_avg"], left @ state["exp_avg"] @ right)
    torch.testing.assert_close(moved["exp_avg_sq"], (left @ state["exp_avg_sq"].sqrt() @ right).square())
    assert moved["step"] == 3
    assert len(optimizer.state) == 2, "the core's and the bias's: nothing is left of old factors"
    state = {name: value.clone() for name, value in moved.items()}
    u, v = layer.weight_u.detach(), layer.weight_v.detach()
    backward(net, x, y)
    widen(layer, optimizer)
    left, right = layer.weight_u.detach().mT @ u, v.mT @ layer.weight_v.detach()
    moved = optimizer.state[layer.weight_s]
    assert moved["exp_avg"].shape == (8, 8)
    torch.testing.assert_close(moved["exp_avg"], left @ state["exp_avg"] @ right)
    torch.testing.assert_close(moved["exp_avg_sq"], (left @ state["exp_avg_sq"].sqrt() @ right).square())
    backward(net, x, y)
    optimizer.step()


def test_momentum_means_the_same_in_the_new_bases():
    """Where no direction is dropped, momentum as a change of W is what it was."""
    layer, optimizer, net, x, y = layer_with_gradients(6, 7)
    widen(layer, optimizer)
    backward(net, x, y)
    optimizer.step()

    def of_w():
        buffer = optimizer.state[layer.weight_s]["momentum_buffer"]
        return layer.weight_u.detach() @ buffer @ layer.weight_v.detach().mT

    before = of_w()
    assert before.norm() > 0.1
    narrow(layer, 6, optimizer)
    torch.testing.assert_close(of_w(), before)
    widen(layer, optimizer)
    torch.testing.assert_close(of_w(), before)


# Whole cycles


def small_net(ranks=(4, 6, 3)):
    return nn.Sequential(
        LowRankConv2d(2, 12, 3, ranks[0], padding=1),
        nn.Tanh(),
        nn.Flatten(),
        LowRankLinear(192, 30, ranks[1]),
        nn.Tanh(),
        LowRankLinear(30, 5, ranks[2]),
    )


def train(net, optimizer, steps, after=lambda: None):
    x, y = torch.randn(16, 2, 4, 4), torch.arange(16) % 5
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(net(x), y))  # kept: the graphs stay alive
        losses[-1].backward()
        optimizer.step()
        after()
    return [float(loss.detach()) for loss in losses]


@pytest.mark.parametrize("make", [sgd, adam, lambda net: torch.optim.Adagrad(net.parameters(), lr=0.05)])
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_cycles_train_with_any_optimizer_while_old_graphs_live(make, beta):
    """The head has 5 rows and rank 3: its bases cannot both double."""
    net = small_net()
    optimizer = make(net)
    if beta:
        penalise(net, optimizer, beta=beta)
    handle = adapt(net, optimizer, cycle=4, keep=0.9)
    seen = []
    losses = train(net, optimizer, 16, lambda: seen.append(net[3].weight_s.ndim))
    assert seen == [2, 2, 2, 1] * 4
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.isfinite().all() for p in net.parameters())
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in net.parameters()}
    assert set(map(id, optimizer.state)) <= held
    for layer in (net[0], net[3], net[5]):
        assert is_orthonormal(layer.weight_u.detach(), 1e-5)
        assert is_orthonormal(layer.weight_v.detach(), 1e-5)
    assert handle.steps == 0


def test_the_first_step_of_a_cycle_moves_only_the_others():
    net = small_net()
    optimizer = sgd(net)
    adapt(net, optimizer, cycle=3)
    w, bias = net[3].matrix.detach().clone(), net[3].bias.detach().clone()
    train(net, optimizer, 1)
    torch.testing.assert_close(net[3].matrix, w)
    assert not torch.equal(net[3].bias, bias)
    u = net[3].weight_u.detach().clone()
    train(net, optimizer, 1)
    assert not torch.allclose(net[3].matrix, w)
    assert torch.equal(net[3].weight_u, u)


@pytest.mark.parametrize("keep", [None, 0.3, 0.5])
@pytest.mark.parametrize("tolerance", [1e-6, 0.1, 0.5])
def test_ranks_never_exceed_the_room(keep, tolerance):
    net = small_net()
    room = stored(net).now if keep is None else keep * stored(net).dense
    optimizer = adam(net, lr=0.05)
    handle = adapt(net, optimizer, tolerance=tolerance, cycle=3, keep=keep)
    for _ in range(4):
        train(net, optimizer, 3)
        assert net[3].weight_s.ndim == 1
        assert stored(net).now <= room
    train(net, optimizer, 2)
    handle.enforce()
    assert stored(net).now <= room
    assert [layer.weight_s.ndim for layer in (net[0], net[3], net[5])] == [1, 1, 1]


def test_ranks_grow_where_they_are_needed_and_fall_where_not():
    net = small_net((4, 6, 3))
    optimizer = adam(net, lr=0.02)
    adapt(net, optimizer, tolerance=0.02, cycle=5, keep=0.9)
    train(net, optimizer, 20)
    grown = ranks_of(net)
    assert grown["3"] > 6
    optimizer = adam(net, lr=0.0)
    adapt(net, optimizer, tolerance=0.9, cycle=2)
    train(net, optimizer, 2)
    assert ranks_of(net) == {"0": 2, "3": 2, "5": 2}


@pytest.mark.parametrize("start", [1, 3, 8])
def test_a_planted_matrix_and_its_rank_are_found(start, product):
    """Least squares with a matrix of rank 3: from above, from below, and from the very rank."""
    planted = torch.randn(20, 3) @ torch.randn(3, 24)
    x = torch.randn(300, 24)
    y = x @ planted.mT
    net = nn.Sequential(LowRankLinear(24, 20, start, bias=False))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    handle = adapt(net, optimizer, tolerance=0.05, cycle=10, keep=1.0)
    for step in range(400):
        if step == 300:
            optimizer.param_groups[0]["lr"] = 0.01
        optimizer.zero_grad()
        (net(x) - y).square().sum(-1).mean().backward()
        optimizer.step()
    handle.enforce()
    assert net[0].rank == 3
    assert np.linalg.norm(product(net[0]) - planted.numpy()) < 0.02 * planted.norm()


def test_ending_a_cycle_early_and_letting_go():
    net = small_net()
    optimizer = adam(net)
    handle = adapt(net, optimizer, cycle=5)
    train(net, optimizer, 3)
    handle.enforce()
    logits = net(torch.ones(1, 2, 4, 4))
    handle.enforce()
    assert torch.equal(net(torch.ones(1, 2, 4, 4)), logits), "nothing is due"
    assert all(p.requires_grad for p in net.parameters())
    handle.remove()
    w = net[3].weight_u.detach().clone()
    losses = train(net, optimizer, 4)
    assert losses[-1] < losses[0]
    assert not torch.equal(net[3].weight_u, w)
    assert net[3].weight_s.ndim == 1


@pytest.mark.parametrize("make", [sgd, adam])
def test_it_can_start_where_an_optimizer_has_state(make):
    net = small_net()
    optimizer = make(net)
    train(net, optimizer, 3)
    adapt(net, optimizer, cycle=3)
    losses = train(net, optimizer, 6)
    assert losses[-1] < losses[0]


def test_it_can_be_taken_off_and_put_on_while_adam_goes_on():
    """The bases' moments are of their old shape: ranks change, and then they are trained again."""
    net = small_net()
    optimizer = adam(net, lr=0.03)
    train(net, optimizer, 2)
    ranks = [ranks_of(net)]
    for tolerance in (0.5, 0.01):
        handle = adapt(net, optimizer, tolerance=tolerance, cycle=3, keep=0.9)
        train(net, optimizer, 4)
        handle.remove()
        assert train(net, optimizer, 3)[-1] < 2
        ranks.append(ranks_of(net))
    assert ranks[0] != ranks[1] != ranks[2]
    for p in net.parameters():
        for name, moment in optimizer.state[p].items():
            assert name == "step" or moment.shape == p.shape


def test_a_layer_left_out_of_a_cycles_first_batch():
    """It has no gradient then; it takes part in the next cycle."""
    net = small_net()
    optimizer = sgd(net, lr=0.01)
    adapt(net, optimizer, cycle=3, keep=0.9)
    x, y = torch.randn(16, 2, 4, 4), torch.arange(16) % 5
    for step in range(9):
        optimizer.zero_grad()
        out = net[:3](x).detach() if step == 0 else net[:3](x)
        nn.functional.cross_entropy(net[3:](out), y).backward()
        optimizer.step()
        assert net[0].weight_s.ndim == (1 if step in (0, 1, 2, 5, 8) else 2)
    assert is_orthonormal(net[0].weight_u.detach(), 1e-5)
    assert all(p.isfinite().all() for p in net.parameters())


def test_frozen_layers_stay_frozen():
    net = small_net()
    nn.init.normal_(net[3].weight_u)
    net[3].requires_grad_(False)
    before = copy.deepcopy(net[3].state_dict())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
    adapt(net, optimizer, cycle=3)
    train(net, optimizer, 6)
    assert not any(p.requires_grad for p in net[3].parameters())
    assert all(torch.equal(value, before[name]) for name, value in net[3].state_dict().items())


def test_bases_are_orthonormal_before_the_first_cycle():
    net = small_net()
    nn.init.normal_(net[3].weight_u)
    w = net[3].matrix.detach()
    adapt(net, sgd(net))
    assert is_orthonormal(net[3].weight_u.detach(), 1e-5)
    assert net[3].rank == 6
    assert w.shape == net[3].matrix.shape


def test_a_rank_changed_by_training_is_saved_and_loaded(tmp_path):
    net = small_net()
    twin = copy.deepcopy(net)
    optimizer = adam(net, lr=0.05)
    handle = adapt(net, optimizer, tolerance=0.3, cycle=3, keep=0.9)
    train(net, optimizer, 6)
    assert ranks_of(net) != ranks_of(twin)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(3, 2, 4, 4)
    assert ranks_of(twin) == ranks_of(net)
    assert torch.equal(twin(x), net(x))
    save_model(net, tmp_path / "net.safetensors")
    third = small_net((1, 1, 1))
    load_model(third, tmp_path / "net.safetensors")
    assert torch.equal(third(x), net(x))
    assert handle.state_dict() == {"steps": 0, "room": handle.room}


def test_loading_another_rank_while_an_old_graph_lives():
    net, other = small_net(), small_net((2, 2, 2))
    x = torch.randn(3, 2, 4, 4)
    loss = net(x).sum()
    loss.backward()
    net.load_state_dict(other.state_dict())
    net.zero_grad()
    net(x).sum().backward()
    assert all(p.grad.shape == p.shape for p in net.parameters())
    assert loss.isfinite()


@pytest.mark.parametrize("at", [1, 2, 3, 6])
def test_a_run_that_is_resumed_goes_on_as_if_never_stopped(at):
    """Between two cycles of three steps and within one, with Adam's moments."""

    def begun():
        torch.manual_seed(5)
        net = small_net()
        optimizer = adam(net, lr=0.02)
        return net, optimizer, adapt(net, optimizer, tolerance=0.2, cycle=3, keep=0.8)

    net, optimizer, handle = begun()
    torch.manual_seed(6)
    train(net, optimizer, at)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), handle.state_dict()))
    torch.manual_seed(7)
    train(net, optimizer, 5)
    other, anew, resumed = begun()
    for part, state in zip((other, anew, resumed), saved, strict=True):
        part.load_state_dict(state)
    torch.manual_seed(7)
    train(other, anew, 5)
    assert ranks_of(other) == ranks_of(net)
    for a, b in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bases_learn_again_when_narrow_weights_are_loaded_within_a_cycle():
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    handle = adapt(net, sgd(net), cycle=3)
    train(net, handle.optimizer, 1)
    assert not net[3].weight_u.requires_grad
    net.load_state_dict(before)
    assert all(p.requires_grad for p in net.parameters())


def test_a_core_that_is_no_number_does_not_hide_what_happened():
    net = small_net()
    handle = adapt(net, sgd(net), cycle=5)
    train(net, handle.optimizer, 2)
    net[3].weight_s.data.fill_(float("nan"))
    handle.enforce()
    assert [layer.weight_s.ndim for layer in (net[0], net[5])] == [1, 1]
    assert net(torch.ones(1, 2, 4, 4)).isnan().any()


def test_a_step_inside_autocast_is_taken_in_full_precision():
    net = small_net()
    w = net[3].matrix.detach()
    optimizer = sgd(net)
    adapt(net, optimizer, cycle=3)
    x = torch.randn(3, 2, 4, 4)
    for step in range(6):
        with torch.autocast("cpu", torch.bfloat16):
            net(x).float().square().sum().backward()
            optimizer.step()
        if not step:
            torch.testing.assert_close(net[3].matrix.detach(), w, atol=1e-6, rtol=1e-5)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, r"tolerance is 0; give a share of the core's norm in \(0, 1\)"),
        ({"tolerance": 1}, "tolerance is 1;"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"cycle": 1}, "cycle is 1; give at least 2 steps"),
        ({"cycle": 2.5}, "cycle is 2.5"),
        ({"cycle": True}, "cycle is True"),
        ({"keep": 0.01}, r"keep=0.01 cannot be reached by dlrt; give keep >= 0\.\d{4}$"),
    ],
)
def test_bad_options_are_refused(options, message):
    net = small_net()
    before, optimizer = copy.deepcopy(net.state_dict()), sgd(net)
    with pytest.raises(ValueError, match=message):
        adapt(net, optimizer, **options)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    net = factorize(nn.Sequential(nn.Linear(20, 20)).to(dtype), keep=0.7)
    with pytest.raises(ValueError, match="keep them in float32"):
        adapt(net, sgd(net))


def test_a_closure_is_refused_because_its_gradients_come_too_late():
    net = small_net()
    optimizer = sgd(net)
    adapt(net, optimizer)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: net(torch.randn(2, 2, 4, 4)).sum())


def test_it_needs_low_rank_layers_and_the_optimizer_that_trains_them(net):
    with pytest.raises(ValueError, match="no low-rank layer"):
        adapt(net, sgd(net))
    low = small_net()
    with pytest.raises(ValueError, match=r"does not hold 0\.weight_u"):
        adapt(low, torch.optim.SGD(low[3].parameters(), lr=0.1))
