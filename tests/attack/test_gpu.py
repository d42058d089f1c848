"""The same images on a GPU as on the CPU, wherever the small tensors lie."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch

from art_lowrank import lowrank_pgd, rank_curve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "paper", "rank": 2},
        {"method": "paper", "rank": 2, "init": "warm-up"},
        {"rank": "full"},
        {"rank": 2, "early_stop": True, "restarts": 2},
        {"rank": 1, "norm": math.inf},
        {"rank": 4, "norm": math.inf},
        {"rank": 2, "norm": "nuc"},
        {"rank": 2, "norm": "nuc", "method": "frank-wolfe"},
        {"rank": 2, "exact_rank": True},
        {"rank": 2, "use_budget": True},
        {"rank": 2, "thorough": True},
        {"rank": 2, "clip": (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)), "mask": torch.ones(8, 8)},
    ],
    ids=str,
)
def test_same_images(digits_net, test_digits, options):
    x, y = test_digits
    eps = torch.full((len(x),), 0.5)
    here = lowrank_pgd(digits_net, x, y, eps=eps, **options)
    there = lowrank_pgd(copy.deepcopy(digits_net).cuda(), x.cuda(), y, eps=eps, **options)
    assert there.x.is_cuda
    close = (there.x.cpu() - here.x).abs().flatten(1).amax(1) < 1e-4
    assert close.float().mean() > 0.95  # ReLU kinks let a rounding grow on an image now and then
    assert (there.success.cpu() == here.success).float().mean() > 0.97


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_search(digits_net, test_digits, precision):
    x, y = test_digits
    net = copy.deepcopy(digits_net).cuda()
    found = lowrank_pgd(net, x.cuda(), y, eps=0.5, precision=precision)
    plain = lowrank_pgd(net, x.cuda(), y, eps=0.5)
    assert abs(int(found.success.sum()) - int(plain.success.sum())) <= 2


def test_same_curve(digits_net, test_digits):
    x, y = test_digits
    here = rank_curve(digits_net, x, y, eps=0.5)
    there = rank_curve(copy.deepcopy(digits_net).cuda(), x.cuda(), y, eps=0.5)
    assert (there.breaking.cpu() == here.breaking).float().mean() > 0.95


def test_one_wait_a_step(digits_net, test_digits):
    """Synchronisations grow by at most one a step, counted by CUDA's own warnings."""
    x, y = test_digits.x.cuda(), test_digits.y.cuda()
    net = copy.deepcopy(digits_net).cuda()
    lowrank_pgd(net, x, y, eps=0.5, steps=7)

    def waits(steps):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                lowrank_pgd(net, x, y, eps=0.5, steps=steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    assert waits(12) - waits(7) <= 5


def test_half_precision_net(digits_net, test_digits):
    x, y = test_digits
    net = copy.deepcopy(digits_net).cuda().half()
    result = lowrank_pgd(net, x.cuda().half(), y.cuda(), eps=0.5)
    assert result.x.dtype == torch.float16
    assert result.factors.left.dtype == torch.float32
    assert ((result.x.double() - x.cuda().half().double()).flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-6)).all()
