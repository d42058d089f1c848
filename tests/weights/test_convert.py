"""What factorize and densify put where: in the tree of modules, in the optimizer, and nothing anywhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from art_lowrank.weights import LowRankConv2d, LowRankLinear, constrain, densify, factorize, ranks_of, stored

OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.Adam(p, lr=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
]


def two_layers(width=30):
    return nn.Sequential(nn.Linear(20, width), nn.Tanh(), nn.Linear(width, 6))


def step(net, optimizer, x=None):
    x = torch.randn(9, 20) if x is None else x
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def snapshot(net):
    return [(name, type(m), m.training) for name, m in net.named_modules()], copy.deepcopy(net.state_dict())


def unchanged(net, before):
    shape, state = snapshot(net)
    return shape == before[0] and all(
        torch.equal(a, b) for a, b in zip(state.values(), before[1].values(), strict=True)
    )


def test_the_tree_keeps_its_shape_modes_and_objects(net):
    net[8].eval()
    kept = {name: m for name, m in net.named_modules() if not isinstance(m, nn.Linear | nn.Conv2d)}
    net.train()
    net[8].eval()
    names, biases = [name for name, _ in net.named_modules()], [net[0].bias, net[8].bias]
    assert factorize(net, ranks={"0": 2, "8": 3}) is net
    assert [name for name, _ in net.named_modules()] == names
    assert all(dict(net.named_modules())[name] is m for name, m in kept.items())
    assert isinstance(net[0], LowRankConv2d)
    assert isinstance(net[8], LowRankLinear)
    assert (net[0].training, net[8].training) == (True, False)
    assert [net[0].bias, net[8].bias] == biases
    densify(net)
    assert (type(net[0]), type(net[8])) == (nn.Conv2d, nn.Linear)
    assert (net[0].training, net[8].training) == (True, False)
    assert (net[0].bias, net[8].bias) == tuple(biases)


@pytest.mark.parametrize("root", [nn.Linear(20, 30), nn.Conv2d(6, 20, 3, bias=False)], ids=["linear", "conv"])
def test_a_root_module_is_returned_in_new_form(root):
    weight = root.weight
    optimizer = torch.optim.SGD([weight], lr=0.1)
    low = factorize(root, keep=0.5, optimizer=optimizer)
    assert list(ranks_of(low)) == [""]
    assert optimizer.param_groups[0]["params"] == [low.weight_u, low.weight_s, low.weight_v]
    plain = densify(low, optimizer=optimizer)
    assert type(plain) is type(root)
    assert plain.weight.shape == weight.shape
    assert len(optimizer.param_groups[0]["params"]) == 1
    assert optimizer.param_groups[0]["params"][0] is plain.weight


def test_a_module_used_twice_is_replaced_at_both_places():
    shared = nn.Linear(20, 20)
    net = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.Tanh(), shared), "c": nn.Linear(20, 20)})
    total = 2 * 420
    factorize(net, keep=0.7)
    assert net["a"] is net["b"][1]
    assert isinstance(net["a"], LowRankLinear)
    assert stored(net).dense == total
    assert stored(net).now <= 0.7 * total
    densify(net)
    assert net["a"] is net["b"][1]
    assert type(net["a"]) is nn.Linear


def test_tied_weights_are_left_alone():
    net = nn.ModuleDict({"inner": nn.Embedding(40, 30), "free": nn.Linear(30, 30), "out": nn.Linear(30, 40)})
    net["out"].weight = net["inner"].weight
    factorize(net, keep=0.9)
    assert list(ranks_of(net)) == ["free"]
    assert net["out"].weight is net["inner"].weight


def test_depthwise_subclassed_and_reparametrised_layers_are_left_alone():
    class Own(nn.Linear):
        pass

    net = nn.ModuleDict(
        {
            "depthwise": nn.Conv2d(32, 64, 5, groups=32),
            "grouped": nn.Conv2d(32, 32, 5, groups=2),
            "own": Own(30, 30),
            "normed": torch.nn.utils.parametrizations.weight_norm(nn.Linear(30, 30)),
            "transposed": nn.ConvTranspose2d(8, 8, 3),
            "single": nn.Conv2d(1, 16, 5),
        }
    )
    factorize(net, keep=0.9)
    assert set(ranks_of(net)) <= {"grouped", "single"}
    assert "grouped" in ranks_of(net)
    for name in ("depthwise", "own", "normed"):
        with pytest.raises(ValueError, match=f"ranks names {name!r}, which is no layer that can be factorised"):
            factorize(net, ranks={name: 1})


def test_one_input_channel_in_one_group_is_not_depthwise():
    assert ranks_of(factorize(nn.Sequential(nn.Conv2d(1, 16, 5)), ranks={"0": 3})) == {"0": 3}


def test_layers_that_would_not_save_stay_dense():
    """A 4 x 4 matrix needs 9 numbers at rank 1 and 18 at rank 2: only the first saves."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(2, 2), nn.Linear(60, 60))
    factorize(net, keep=0.6)
    assert type(net[1]) is nn.Linear
    assert ranks_of(net).get("0", 1) == 1
    assert type(factorize(nn.Sequential(nn.Linear(30, 30)), keep=1)[0]) is nn.Linear


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("1", {"0.0", "0.1", "2"}),
        (["1", "2"], {"0.0", "0.1"}),
        (["0"], {"1", "2"}),
        (("0.1",), {"0.0", "1", "2"}),
        ((), {"0.0", "0.1", "1", "2"}),
        (iter(["1", "2"]), {"0.0", "0.1"}),
    ],
)
def test_skip_takes_names_and_whole_subtrees(skip, left):
    net = nn.Sequential(nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30)), nn.Linear(30, 30), nn.Linear(30, 30))
    with pytest.raises(ValueError, match=rf"there are: {', '.join(sorted(left))}$"):
        factorize(net, ranks={"none": 1}, skip=skip)


def test_skip_does_not_take_names_that_only_begin_alike():
    net = nn.Sequential(*(nn.Linear(9, 9) for _ in range(11)))
    assert "10" in ranks_of(factorize(net, keep=0.9, ranks="uniform", skip=["1"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": {"0": 3, "fc": 2}}, "ranks names 'fc', which is no layer that can be factorised; there are: 0, 2"),
        ({"ranks": {"0": 3, "1": 2}}, "ranks names '1'"),
        ({"ranks": {"0": 3, "2": 0}}, r"ranks\['2'\] is 0; a 6 x 30 weight takes 1 to 6"),
        ({"ranks": {"0": 3, "2": 7}}, r"ranks\['2'\] is 7; a 6 x 30 weight takes 1 to 6"),
        ({"ranks": {"0": 3, "2": True}}, r"ranks\['2'\] is True"),
        ({"ranks": {"0": 3, "2": 2.0}}, r"ranks\['2'\] is 2.0"),
        ({"ranks": "best"}, "ranks is 'best'; give a rank by layer name, or one of 'activation', 'energy', 'uniform'"),
        ({"ranks": "activation"}, "ranks='activation' needs data"),
        ({"ranks": {"0": 3}, "skip": "0"}, "ranks names '0'"),
        ({"skip": ["0", "no"]}, r"skip names 'no', which is no module of the model; its layers are \['0', '1', '2'\]"),
        ({"skip": ["0", "2"]}, "no Linear or Conv2d layer to factorise"),
        ({"keep": 0}, r"keep is 0; give the share of the parameters to be stored, in \(0, 1\]"),
        ({"keep": 1.01}, "keep is 1.01"),
        ({"keep": -0.2}, "keep is -0.2"),
        ({"keep": float("nan")}, "keep is nan"),
        ({"keep": True}, "keep is True"),
        ({"keep": "0.2"}, "keep is '0.2'"),
        ({"keep": 0.01}, "keep=0.01 cannot be reached"),
        ({"keep": 0.5, "data": [torch.zeros(3, 20).numpy()]}, "data holds ndarray; give a tensor of images, or"),
        ({"keep": 0.5, "data": torch.zeros(3, 19)}, "shapes cannot be multiplied"),
        ({"keep": 0.5, "data": torch.zeros(0, 20)}, "did not use layer '0' on the data given"),
        ({"keep": 0.5, "data": []}, "did not use layer '0' on the data given; add it to skip, or leave data out"),
    ],
)
def test_bad_input_is_one_line_and_leaves_everything_as_it_was(options, message):
    net = two_layers().train()
    optimizer = torch.optim.Adam(net.parameters())
    step(net, optimizer)
    before, parameters, state = snapshot(net), list(net.parameters()), dict(optimizer.state)
    random = torch.get_rng_state()
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        factorize(net, optimizer=optimizer, **options)
    assert "\n" not in str(caught.value)
    assert unchanged(net, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], parameters, strict=True))
    assert dict(optimizer.state) == state
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="the model has no Linear or Conv2d layer to factorise"):
        factorize(nn.Sequential(nn.Conv1d(3, 3, 3), nn.ReLU()))


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_the_optimizers_groups_get_the_factors_in_the_weights_place(make):
    net = two_layers()
    first, last = net[0], net[2]
    optimizer = make(
        [{"params": [first.bias, first.weight], "lr": 0.003}, {"params": [last.weight, last.bias], "weight_decay": 0.1}]
    )
    lists = [group["params"] for group in optimizer.param_groups]
    step(net, optimizer)
    weights, moments = (first.weight, last.weight), dict(optimizer.state[first.bias])
    factorize(net, ranks={"0": 4, "2": 3}, optimizer=optimizer)
    (a, b), (c, d) = ((net[i].weight_u, net[i].weight_s, net[i].weight_v) for i in (0, 2)), (net[0].bias, net[2].bias)
    expected = [[c, *a], [*b, d]]
    for group, parameters in zip(optimizer.param_groups, expected, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters]
    assert [optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["weight_decay"]] == [0.003, 0.1]
    assert all(group["params"] is old for group, old in zip(optimizer.param_groups, lists, strict=True))
    assert set(map(id, optimizer.state)) == {id(c), id(d)}, "the weights' state is dropped, the biases' kept"
    assert all(optimizer.state[c][name] is value for name, value in moments.items())
    before = copy.deepcopy(net.state_dict())
    step(net, optimizer)
    assert all(not torch.equal(before[name], p) for name, p in net.named_parameters())
    densify(net, optimizer=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert optimizer.param_groups[0]["params"][1] is net[0].weight
    assert set(map(id, optimizer.state)) == {id(c), id(d)}
    assert not set(map(id, weights)) & {id(p) for group in optimizer.param_groups for p in group["params"]}
    step(net, optimizer)


def test_lbfgs_follows_the_swap():
    """It keeps the list of its only group's parameters for itself."""
    net = two_layers()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1)
    factorize(net, ranks={"0": 4, "2": 3}, optimizer=optimizer)
    before, x = copy.deepcopy(net.state_dict()), torch.randn(9, 20)

    def closure():
        optimizer.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert all(not torch.equal(before[name], p) for name, p in net.named_parameters())


def test_names_in_an_optimizer_do_not_go_stale():
    net = two_layers()
    try:
        optimizer = torch.optim.SGD(net.named_parameters(), lr=0.1)
    except TypeError:
        pytest.skip("this torch has optimizers without names")
    factorize(net, ranks={"0": 4, "2": 3}, optimizer=optimizer)
    group = optimizer.param_groups[0]
    assert len(group.get("param_names", group["params"])) == len(group["params"])


def test_pairs_in_an_optimizer():
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    factorize(net, ranks={"0": 4, "2": 3}, optimizer=optimizer)
    densify(net, pairs=True, optimizer=optimizer)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held == {id(p) for p in net.parameters()}
    assert len(held) == len(optimizer.param_groups[0]["params"]) == 6


def test_an_optimizer_that_holds_only_some_layers():
    net = two_layers()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    factorize(net, ranks={"0": 4, "2": 3}, optimizer=optimizer)
    assert len(optimizer.param_groups[0]["params"]) == 4
    with pytest.raises(ValueError, match=r"the optimizer does not hold 0\.weight_u; call factorize"):
        constrain(net, optimizer)


def test_frozen_layers_stay_frozen():
    net = two_layers()
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    factorize(net, ranks={"0": 4, "2": 3})
    assert [(name, p.requires_grad) for name, p in net.named_parameters()] == [
        *((f"0.{name}", False) for name in ("weight_u", "weight_s", "weight_v", "bias")),
        *((f"2.{name}", name != "bias") for name in ("weight_u", "weight_s", "weight_v", "bias")),
    ]
    densify(net)
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, False]


def test_fresh_factors_forget_the_weights_and_follow_the_callers_seed(skewness):
    nets = [two_layers() for _ in range(2)]
    for net in nets:
        torch.manual_seed(3)
        factorize(net, ranks={"0": 4, "2": 3}, fresh=True)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    layer = nets[0][0]
    assert layer.cond() == pytest.approx(1, abs=1e-5)
    assert skewness(layer) < 1e-5
    assert layer.bias.abs().max() <= 20**-0.5


def test_truncation_leaves_the_random_state_alone(net, images):
    for options in ({}, {"data": images}):
        random = torch.get_rng_state()
        factorize(copy.deepcopy(net).train(), keep=0.5, **options)
        assert torch.equal(torch.get_rng_state(), random)


def test_factorising_twice_takes_only_what_is_still_dense():
    net = two_layers()
    factorize(net, ranks={"0": 4})
    layer = net[0]
    factorize(net, ranks={"2": 2})
    assert net[0] is layer
    assert ranks_of(net) == {"0": 4, "2": 2}
    with pytest.raises(ValueError, match="no Linear or Conv2d"):
        factorize(net)


def test_stored_counts_now_and_dense(net):
    dense = sum(p.numel() for p in net.parameters())
    assert stored(net) == (dense, dense)
    factorize(net, ranks={"0": 2, "8": 3})
    now = sum(p.numel() for p in net.parameters())
    assert stored(net) == (now, dense)
    assert stored(net).share == now / dense
    assert now == dense - 8 * 27 - 20 * 96 + 2 * (8 + 27 + 1) + 3 * (20 + 96 + 1)


def test_densify_in_the_middle_of_a_core_step_leaves_trainable_weights():
    net = two_layers()
    factorize(net, ranks={"0": 4})
    layer = net[0]
    layer.weight_s = nn.Parameter(torch.randn(4, 4))
    layer.weight_u.requires_grad_(False)
    layer.weight_v.requires_grad_(False)
    x = torch.randn(3, 20)
    logits = net(x)
    densify(net)
    assert net[0].weight.requires_grad
    torch.testing.assert_close(net(x), logits)
