"""A low-rank layer is the dense layer of its product, in every geometry and in every number format."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_lowrank.weights import LowRankConv2d, LowRankLinear, densify, factorize, ranks_of

FACTORS = ("weight_u", "weight_s", "weight_v")
GEOMETRIES = [
    {},
    {"stride": 2},
    {"stride": (2, 1), "padding": (0, 2)},
    {"padding": "same"},
    {"padding": "valid"},
    {"dilation": 2, "padding": 2},
    {"dilation": (1, 3), "padding": "same", "padding_mode": "circular"},
    {"groups": 2, "padding": 1},
    {"groups": 2, "padding": "same", "padding_mode": "replicate", "bias": False},
    {"bias": False},
    *({"padding": (1, 2), "padding_mode": mode, "stride": 2} for mode in ("zeros", "reflect", "replicate", "circular")),
    *({"padding": "same", "padding_mode": mode} for mode in ("zeros", "reflect", "replicate", "circular")),
]


def naming(geometry):
    return " ".join(f"{name}={value}" for name, value in geometry.items()) or "plain"


def crooked(layer):
    """Factors that are not orthonormal, a spectrum with both signs: the forward must not rely on either."""
    with torch.no_grad():
        for name in FACTORS:
            getattr(layer, name).normal_()
    return layer.double()


def holding(plain, product):
    """The plain layer with numpy's product as its weight."""
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(product).reshape(plain.weight.shape))
    return plain


@pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths"
)  # torch says so of its own layer too
@pytest.mark.parametrize("kernel", [3, (1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=naming)
def test_convolution_is_that_of_the_product(geometry, kernel, product):
    layer = crooked(LowRankConv2d(4, 6, kernel, 2, **geometry))
    plain = holding(nn.Conv2d(4, 6, kernel, **geometry).double(), product(layer))
    plain.bias = layer.bias
    for x in (torch.randn(2, 4, 9, 8).double(), torch.randn(4, 9, 8).double()):
        torch.testing.assert_close(layer(x), plain(x))
        torch.testing.assert_close(layer.dense()(x), plain(x))
        torch.testing.assert_close(layer.pair()(x), plain(x))
    torch.testing.assert_close(layer.weight, plain.weight)
    assert layer.weight.shape == plain.weight.shape


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 4, 7), (0, 7)], ids=str)
def test_linear_is_that_of_the_product(shape, bias, product):
    layer = crooked(LowRankLinear(7, 6, 2, bias=bias))
    plain = holding(nn.Linear(7, 6, bias=bias).double(), product(layer))
    plain.bias = layer.bias
    x = torch.randn(shape).double()
    for found in (layer(x), layer.dense()(x), layer.pair()(x)):
        torch.testing.assert_close(found, plain(x))
    torch.testing.assert_close(layer.weight, plain.weight)


def test_a_matrix_as_core_is_applied_whole():
    layer = crooked(LowRankLinear(7, 6, 3, bias=False))
    core, x = torch.randn(3, 3).double(), torch.randn(4, 7).double()
    layer.weight_s = nn.Parameter(core)
    expected = x @ (layer.weight_u @ core @ layer.weight_v.mT).mT
    for found in (layer(x), layer.dense()(x), layer.pair()(x), F.linear(x, layer.weight)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("made", [lambda: LowRankLinear(7, 6, 3), lambda: LowRankConv2d(2, 6, 3, 3, padding=1)])
def test_gradients_of_the_factors_are_those_through_the_product(made):
    layer = crooked(made())
    linear = isinstance(layer, LowRankLinear)
    x = torch.randn(5, 7).double() if linear else torch.randn(5, 2, 6, 6).double()
    target = torch.randn(5, 6).double() if linear else torch.randn(5, 6, 6, 6).double()
    (layer(x) - target).square().sum().backward()
    w = layer.weight.detach().requires_grad_()
    out = F.linear(x, w, layer.bias) if linear else F.conv2d(x, w, layer.bias, padding=1)
    (out - target).square().sum().backward()
    g, u, s, v = w.grad.flatten(1), *(getattr(layer, name).detach() for name in FACTORS)
    torch.testing.assert_close(layer.weight_u.grad, g @ v * s)
    torch.testing.assert_close(layer.weight_v.grad, g.mT @ u * s)
    torch.testing.assert_close(layer.weight_s.grad, (u.mT @ g @ v).diag())


def test_at_full_rank_the_logits_come_back(net, images):
    before = net(images)
    layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    full = {name: min(layer.weight.flatten(1).shape) for name, layer in layers if name != "5"}
    factorize(net, ranks=full)
    assert ranks_of(net) == full
    torch.testing.assert_close(net(images), before, atol=1e-5, rtol=0)
    densify(net)
    assert not ranks_of(net)
    torch.testing.assert_close(net(images), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_densify_keeps_the_logits_of_a_truncated_net(net, images, keep, pairs):
    factorize(net, keep=keep)
    stored = sum(p.numel() for p in net.parameters())
    low, logits = ranks_of(net), net(images)
    assert low
    assert densify(net, pairs=pairs) is net
    torch.testing.assert_close(net(images), logits, atol=1e-5, rtol=0)
    assert not any(type(m).__module__.startswith("art_lowrank") for m in net.modules())
    if pairs:  # s is taken into u, and a grouped convolution repeats v
        assert sum(p.numel() for p in net.parameters()) <= stored + low.get("6", 0) * 36


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncation_is_eckart_youngs(rank, product):
    plain = nn.Linear(9, 6)
    w = plain.weight.detach().double().numpy()
    values = np.linalg.svd(w, compute_uv=False)
    layer = factorize(plain, ranks={"": rank})
    assert np.linalg.norm(w - product(layer), 2) == pytest.approx(values[rank], rel=1e-5)
    assert np.linalg.norm(w - product(layer)) == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-5)
    assert layer.weight_s.tolist() == pytest.approx(values[:rank], rel=1e-6)


def test_fresh_factors_are_orthonormal_with_a_flat_spectrum_of_torchs_size(skewness):
    for layer in (LowRankLinear(300, 200, 40), LowRankConv2d(30, 50, 3, 20), LowRankLinear(3, 5, 3)):
        shapes = {name: p.shape for name, p in layer.named_parameters()}
        first = layer.weight_u.detach().clone()
        for _ in range(2):
            assert skewness(layer) < 1e-5
            assert layer.cond() == pytest.approx(1, abs=1e-5)
            # torch draws from U(-1/sqrt(n), 1/sqrt(n)): |W|_F^2 = m n / (3 n)
            assert layer.weight.square().sum().item() == pytest.approx(len(layer.weight_u) / 3, rel=1e-5)
            assert layer.bias.abs().max() <= len(layer.weight_v) ** -0.5
            layer.reset_parameters()
            assert {name: p.shape for name, p in layer.named_parameters()} == shapes
        assert not torch.equal(layer.weight_u, first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_number_formats(dtype):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(640, 12)).to(dtype)
    images = torch.rand(6, 3, 10, 8).to(dtype)
    factorize(net, ranks={"0": 3, "3": 4})
    assert {p.dtype for p in net.parameters()} == {dtype}
    logits = net(images)
    assert logits.dtype == dtype
    exact = densify(copy.deepcopy(net).double())(images.double())
    torch.testing.assert_close(logits.double(), exact, atol=4 * torch.finfo(dtype).eps, rtol=4 * torch.finfo(dtype).eps)
    assert {p.dtype for p in densify(net).parameters()} == {dtype}


def test_forward_and_backward_under_autocast(net, images):
    factorize(net, keep=0.5)
    exact = net(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, atol=0.05, rtol=0.05)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_torch_compile():
    net, images = (
        nn.Sequential(LowRankConv2d(3, 4, 3, 2), nn.Flatten(), LowRankLinear(64, 5, 2)),
        torch.rand(2, 3, 6, 6),
    )
    try:
        found = torch.compile(net, backend="eager", fullgraph=True)(images)
    except RuntimeError as error:
        if "supported" not in str(error):
            raise
        pytest.skip(f"torch.compile: {error}")
    torch.testing.assert_close(found, net(images))
    found.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_transformer_layers_still_work(training):
    """Their fast path in evaluation reads `weight` of the linear layers."""
    block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(3, 5, 16)
    factorize(block, ranks={"linear1": 16, "linear2": 16})
    attention = block.self_attn.out_proj
    assert isinstance(attention, nn.Linear)
    assert ranks_of(block) == {"linear1": 16, "linear2": 16}
    plain = densify(copy.deepcopy(block))
    torch.testing.assert_close(block(x), plain(x))
    with torch.no_grad():
        torch.testing.assert_close(block(x), plain(x))
        torch.testing.assert_close(nn.TransformerEncoder(block, 2)(x), nn.TransformerEncoder(plain, 2)(x))


def test_attention_keeps_its_projection():
    attention = nn.MultiheadAttention(16, 4)
    with pytest.raises(ValueError, match="no Linear or Conv2d"):
        factorize(attention)


def test_a_repr_tells_rank_geometry_and_bound():
    layer = LowRankConv2d(4, 6, 3, 2, stride=2, padding=1, groups=2, bias=False)
    assert "4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=2, rank=2, bias=False" in repr(layer)
    assert "max_cond" not in repr(layer)
    layer.max_cond = 1.5
    assert "max_cond=1.5" in repr(layer)
    assert "7, 6, rank=2, bias=True" in repr(LowRankLinear(7, 6, 2))


@pytest.mark.parametrize("rank", [0, -1, 7, 2.0, True, "2"])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank is {rank!r}; a 6 x 7 weight takes 1 to 6"):
        LowRankLinear(7, 6, rank)


def test_a_geometry_torch_refuses_is_refused():
    with pytest.raises(ValueError, match="divisible by groups"):
        LowRankConv2d(3, 4, 3, 2, groups=2)
    with pytest.raises(ValueError, match="padding_mode"):
        LowRankConv2d(2, 4, 3, 2, padding_mode="mirror")
