"""Bad input gets one clear line that quotes the value and says what to do."""

from __future__ import annotations

import pytest
import torch

from art_lowrank import Factors, lowrank_pgd

X, Y = torch.rand(4, 3, 8, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])


def net(x):
    return x.flatten(1)[:, :3] * 3


def with_value(value, at=(1, 0, 0, 0)):
    x = X.clone()
    x[at] = value
    return x


CASES = {
    "nan image": ({"x": with_value(torch.nan)}, ValueError, r"1 of 4 images hold NaN.*index 1"),
    "infinite image": ({"x": with_value(torch.inf)}, ValueError, "NaN or infinity"),
    "outside clip": ({"x": with_value(1.5)}, ValueError, r"span \[.*1.5\].*\[0, 1\]"),
    "0..255": ({"x": X * 255}, ValueError, "outside the clip range"),
    "integers": ({"x": (X * 255).to(torch.uint8)}, ValueError, r"torch.uint8.*float\(\) / 255"),
    "not a tensor": ({"x": X.numpy()}, TypeError, "ndarray; give a torch tensor"),
    "three axes": ({"x": X[0]}, ValueError, r"\(3, 8, 6\)"),
    "negative eps": ({"eps": -0.1}, ValueError, "eps is -0.1"),
    "nan eps": ({"eps": float("nan")}, ValueError, "eps is nan"),
    "text eps": ({"eps": "8/255"}, ValueError, "eps is '8/255'"),
    "eps shape": ({"eps": torch.ones(3)}, ValueError, r"eps of shape \(3,\) does not fit 4 images"),
    "eps inside an image": ({"eps": torch.rand(4, 3, 8, 6)}, ValueError, "differs inside an image"),
    "rank 0": ({"rank": 0}, ValueError, "rank is 0"),
    "negative rank": ({"rank": -2}, ValueError, "rank is -2"),
    "rank 1.0": ({"rank": 1.0}, ValueError, "rank is 1.0"),
    "rank too high": ({"rank": 7}, ValueError, r"rank 7 exceeds min\(height, width\) = 6"),
    "rank text": ({"rank": "half"}, ValueError, "'half'.*\"full\""),
    "rank True": ({"rank": True}, ValueError, "rank is True"),
    "steps": ({"steps": 2.5}, ValueError, "steps is 2.5"),
    "negative steps": ({"steps": -1}, ValueError, "steps is -1"),
    "restarts": ({"restarts": 0}, ValueError, "restarts is 0"),
    "method": ({"method": "magic"}, ValueError, "method is 'magic'; choose one of 'power', 'paper'"),
    "loss": ({"loss": "hinge"}, ValueError, "loss is 'hinge'"),
    "estimator loss": ({"loss": "estimator"}, ValueError, "use loss='auto'"),
    "norm": ({"norm": 1}, ValueError, "norm is 1; choose 2, inf"),
    "exact rank of any mask": (
        {"exact_rank": True, "mask": torch.eye(8)[:, :6]},
        ValueError,
        "mask of image 0 is no rectangle",
    ),
    "exact rank of a clipped latent": (
        {"exact_rank": True, "norm": torch.inf, "method": "clipped-latent"},
        ValueError,
        "no exact_rank",
    ),
    "exact rank text": ({"exact_rank": "yes"}, ValueError, "exact_rank is 'yes'"),
    "method of another norm": ({"method": "paper", "norm": torch.inf}, ValueError, "choose one of 'power', 'pattern'"),
    "norm text": ({"norm": "l7"}, ValueError, "norm is 'l7'"),
    "rank of tiles": ({"norm": "group-nuc"}, ValueError, "use rank='full'"),
    "tile": ({"norm": "group-nuc", "rank": "full", "tile": 0}, ValueError, "tile is 0"),
    "tile of l2": ({"tile": 4}, ValueError, "tile is for norm='group-nuc'"),
    "budget of l_inf": ({"norm": "inf", "use_budget": True}, ValueError, "use_budget is for norm=2"),
    "thorough and targeted": ({"thorough": True, "targeted": True}, ValueError, "leave one out"),
    "precision": ({"precision": "int8"}, ValueError, "precision is 'int8'"),
    "momentum of Frank-Wolfe": ({"norm": "nuc", "method": "frank-wolfe", "decay": 0.5}, ValueError, "no decay"),
    "targeted": ({"targeted": 1}, ValueError, "targeted is 1"),
    "seed": ({"seed": "x"}, ValueError, "seed is 'x'"),
    "clip order": ({"clip": (1, 0)}, ValueError, "lower bound"),
    "clip kind": ({"clip": 3}, ValueError, "clip is 3"),
    "clip text": ({"clip": ("a", 1)}, ValueError, "clip is"),
    "clip none": ({"clip": (None, 1)}, ValueError, "clip is"),
    "clip empty": ({"clip": (torch.zeros(0), 1)}, ValueError, "clip is"),
    "clip shape": ({"clip": (torch.zeros(5, 1, 1), torch.ones(5, 1, 1))}, ValueError, "do not broadcast"),
    "clip shapes": ({"clip": (torch.zeros(3), torch.ones(5))}, ValueError, "do not match"),
    "mask list": ({"mask": [1, 0]}, ValueError, r"mask of shape \(2,\)"),
    "mask text": ({"mask": "a"}, ValueError, "mask must hold"),
    "negative mask": ({"mask": -torch.ones(8, 6)}, ValueError, "mask must hold"),
    "decay": ({"decay": torch.ones(4)}, ValueError, "decay is"),
    "norm list": ({"norm": [2, 2]}, ValueError, "norm"),
    "negative eps tensor": ({"eps": torch.tensor([0.1, -2.0, 0.1, 0.1])}, ValueError, "eps holds -2"),
    "init tuple": ({"init": (X, X)}, ValueError, "init is a tuple"),
    "nan factors": (
        {"init": Factors(torch.full((4, 3, 8, 1), torch.nan), torch.ones(4, 3, 1, 6)), "rank": 2},
        ValueError,
        "NaN or infinity",
    ),
    "init": ({"init": "svd"}, ValueError, "init is 'svd'"),
    "warm-up of power": ({"init": "warm-up"}, ValueError, "belongs to method='paper'"),
    "init shape": ({"init": Factors(torch.ones(4, 3, 5, 1), torch.ones(4, 3, 1, 6))}, ValueError, "do not fit images"),
    "init count": ({"init": Factors(torch.ones(3, 3, 8, 1), torch.ones(3, 3, 1, 6))}, ValueError, "do not fit images"),
    "paper with steps": ({"method": "paper", "step_size": 0.1}, ValueError, "no step_size"),
    "step size": ({"step_size": 0.0}, ValueError, "step_size is 0.0"),
    "mask": ({"mask": torch.ones(5, 5)}, ValueError, r"mask of shape \(5, 5\)"),
    "float labels": ({"y": Y.float()}, ValueError, "torch.float32"),
    "one-hot labels": ({"y": torch.eye(3)[Y].long()}, ValueError, r"shape \(4, 3\)"),
    "few labels": ({"y": Y[:3]}, ValueError, "3 labels for 4 images"),
    "negative label": ({"y": Y - 1}, ValueError, "label -1 is negative"),
    "label out of range": ({"y": Y + 1}, ValueError, "label 3 is out of range: the model has 3 classes"),
    "label list": ({"y": [0, 1, 2, 0]}, TypeError, "labels are list"),
    "one score": ({"model": lambda x: x.flatten(1)[:, :1]}, ValueError, r"returned \(4, 1\)"),
    "features": ({"model": lambda x: x}, ValueError, r"returned \(4, 3, 8, 6\) for 4 images"),
    "wrong rows": ({"model": lambda x: x.flatten(1)[:1, :3]}, ValueError, r"returned \(1, 3\) for 4"),
    "tuple": ({"model": lambda x: (x.flatten(1),)}, ValueError, "returned tuple"),
    "two classes of dlr": (
        {"model": lambda x: x.flatten(1)[:, :2], "y": Y * 0, "loss": "dlr"},
        ValueError,
        "3 classes",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_clear_line(case):
    given, kind, message = case
    call = {"model": net, "x": X, "y": Y, "eps": 0.5, **given}
    with pytest.raises(kind, match=message) as caught:
        lowrank_pgd(call.pop("model"), call.pop("x"), call.pop("y"), **call)
    assert "\n" not in str(caught.value)


def test_a_rounding_outside_the_range_is_forgiven():
    """Undoing a normalisation leaves images a hair outside [0, 1]; the budget is still kept."""
    x = X.clone()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = -5e-5, 1 + 5e-5
    result = lowrank_pgd(net, x, Y, eps=0.5)
    assert ((result.x - x).double().flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-6)).all()


def test_small_integer_labels_are_fine():
    assert torch.equal(lowrank_pgd(net, X, Y.to(torch.int32), eps=0.5).x, lowrank_pgd(net, X, Y, eps=0.5).x)
