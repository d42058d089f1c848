"""A step waits for its device once: everything a GPU would have to be asked for is one small list of flags."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from art_lowrank import lowrank_pgd

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select"}


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host needs; the one `tolist` of a step is none of them on the CPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        boolean = name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += name in WAITS or boolean
        return func(*args, **(kwargs or {}))


def waits(net, x, y, **settings):
    with Waits() as counted:
        lowrank_pgd(net, x, y, eps=0.3, **settings)
    return counted.count


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 2},
        {"rank": 2, "method": "paper"},
        {"rank": "full"},
        {"rank": 1, "norm": math.inf},
        {"rank": 3, "norm": math.inf},
        {"rank": 2, "norm": "nuc"},
        {"rank": 2, "norm": "nuc", "method": "frank-wolfe"},
    ],
    ids=str,
)
def test_no_step_waits_but_for_its_flags(digits_net, test_digits, settings):
    x, y = test_digits.x[:8], test_digits.y[:8]
    few, many = (waits(digits_net, x, y, steps=steps, **settings) for steps in (7, 27))
    assert abs(many - few) <= 5  # one more a step would be 20; the last fit may take a round more or less


def test_the_counter_counts():
    with Waits() as counted:
        flags = torch.tensor([True, False])
        bool(flags.any())
        torch.arange(2)[flags]
        flags.nonzero()
    assert counted.count >= 3
