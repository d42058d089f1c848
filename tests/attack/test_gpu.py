"""The same images on a GPU as on the CPU, wherever the small tensors lie."""

from __future__ import annotations

import copy

import pytest
import torch

from art_lowrank import lowrank_pgd

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


def test_half_precision_net(digits_net, test_digits):
    x, y = test_digits
    net = copy.deepcopy(digits_net).cuda().half()
    result = lowrank_pgd(net, x.cuda().half(), y.cuda(), eps=0.5)
    assert result.x.dtype == torch.float16
    assert result.factors.left.dtype == torch.float32
    assert ((result.x.double() - x.cuda().half().double()).flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-6)).all()
