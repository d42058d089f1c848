"""LowRankPGD under random calls: a result that keeps every promise, or one clear line; never a silent wrong answer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank import LowRankPGD

# derandomize: every machine and every commit sees the same cases, so that a red run is this commit's fault.
FUZZ = {"deadline": None, "derandomize": True, "database": None}
CLIPS = ((0.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), None, "channels")
SAME = ("norm", "eps", "rank", "targeted", "decay", "method", "init", "exact_rank", "early_stop", "loss", "seed")
SAME += ("tile", "use_budget", "thorough", "precision")


def call(data, fuzz, kinds, least=0, losses=True):
    """What a call of the attack consists of, valid but for the settings named in `wrong`."""
    draw = data.draw
    shape = n, c, h, w = draw(st.tuples(*(st.integers(*ends) for ends in ((least, 5), (1, 3), (1, 8), (1, 8)))))
    classes, clip = draw(st.integers(2, 5)), draw(st.sampled_from(CLIPS))
    if clip == "channels":
        low, high = (np.float32(ends)[:c].reshape(c, 1, 1) for ends in ([0.0, -0.25, 0.5], [1.0, 0.5, 2.0]))
        clip = low, high
    low, high = (torch.as_tensor(bound) for bound in ((-2.0, 2.0) if clip is None else clip))
    x = fuzz.fuzz_images(draw, st, shape, low, high, torch.float32)
    y = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    net = fuzz.FuzzNet(draw(st.sampled_from(kinds)), (c, h, w), classes, draw(st.integers(0, 9)))
    s = fuzz.fuzz_settings(draw, st, shape, classes, float((high - low).max()))
    if losses and draw(st.integers(0, 4)) == 4:
        s["loss"] = "estimator"
    ball = "inf" if s["norm"] == np.inf else str(s["norm"])
    classifier = PyTorchClassifier(
        net,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(net.parameters(), lr=1e-3),
        input_shape=(c, h, w),
        nb_classes=classes,
        clip_values=clip,
    )
    options = {name: s[name] for name in SAME}
    options |= {"max_iter": s["steps"], "verbose": False, "batch_size": draw(st.sampled_from([1, 2, 3, 128]))}
    options["num_random_init"] = s["restarts"] if s["restarts"] > 1 else draw(st.integers(0, 1))
    if isinstance(s["eps"], torch.Tensor):  # ART wants both numbers or both arrays of one shape
        options["eps"] = s["eps"].double().numpy()
    options["eps_step"] = s["step_size"]
    if s["step_size"] is not None and isinstance(s["eps"], torch.Tensor):
        options["eps_step"] = np.full(s["eps"].shape, s["step_size"])
    return SimpleNamespace(
        net=net,
        x=x,
        y=y,
        s=s,
        ball=ball,
        clip=clip,
        classifier=classifier,
        options=options,
        samples=samples_of(draw, x),
        labels=labels_of(draw, y, classes, s["targeted"]),
        mask=None if s["mask"] is None else s["mask"].numpy(),
        classes=classes,
        wrong=fuzz.conflicts(s, ball, classes, n),
    )


def samples_of(draw, x):
    """The same float32 numbers as arrays of every kind, as a list, as a tensor."""
    array = x.numpy()
    kind = draw(st.sampled_from(["float32", "float64", "fortran", "strided", "read-only", "list", "tensor"]))
    if kind == "read-only":
        array = array.copy()
        array.setflags(write=False)
        return array
    if kind == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if kind == "list" and len(array):
        return array.tolist()
    return {"float64": array.astype(np.float64), "fortran": np.asfortranarray(array), "tensor": x}.get(kind, array)


def labels_of(draw, y, classes, targeted):
    """The same labels in ART's formats; None for the model's own predictions."""
    one_hot = np.eye(classes, dtype=np.float32)[y.numpy()]
    kinds = {
        "numbers": y.numpy(),
        "column": y.numpy()[:, None],
        "float numbers": y.double().numpy(),
        "one-hot": one_hot,
        "whole one-hot": one_hot.astype(np.int64),
        "list": y.tolist(),
        "tensor": y,
    }
    kind = draw(st.sampled_from([*kinds, "none"]))
    return kinds["numbers"] if kind == "none" and targeted else kinds.get(kind)


def attacked(this, samples=None, **changed):
    """The result of the call; `changed` are attributes with another value."""
    attack = LowRankPGD(changed.get("estimator", this.classifier), **{**this.options, **changed.get("options", {})})
    given = this.samples if samples is None else samples
    return attack.generate_attacked(given, changed.get("labels", this.labels), mask=changed.get("mask", this.mask))


def owned(this):
    values = [this.labels, this.mask, this.options["eps"], this.options["eps_step"], this.options["init"]]
    return [this.samples, *values]


def checked(fuzz, this):
    """One call, with all that is promised of its result; None where a huge radius was refused."""
    found = fuzz.judged(lambda: attacked(this), this.s)
    if found is None:
        return None
    predictions = this.net.predicted(this.x) if len(this.x) else np.zeros((0, 2))
    y = torch.as_tensor(predictions.argmax(1)) if this.labels is None else this.y
    clear = np.sort(predictions, 1)
    if this.labels is not None or bool((clear[:, -1] > clear[:, -2] + 1e-3 * abs(clear[:, -1])).all()):
        fuzz.check_result(found, this.x, y, this.s, this.ball, this.clip, this.net)
    return found


@settings(max_examples=240, **FUZZ)
@given(data=st.data())
def test_valid_calls_keep_every_promise_and_others_are_refused(fuzz, data):
    this = call(data, fuzz, fuzz.LOGITS)
    with fuzz.untouched(this.net, *owned(this)):
        if this.wrong:
            fuzz.refused(lambda: attacked(this))
            return
        found = checked(fuzz, this)
        if found is not None and this.s["seed"] is not None:
            attack = LowRankPGD(this.classifier, **this.options)
            again = fuzz.quietly(lambda: Generated(found.dead, attack, this))
            assert again.images.dtype == np.float32
            assert np.array_equal(again.images, found.x.numpy())
            assert torch.equal(again.factors.left, found.factors.left)


class Generated:
    """`generate_factors` in the shape `quietly` expects."""

    def __init__(self, dead, attack, this):
        self.dead = dead
        self.images, self.factors = attack.generate_factors(this.samples, this.labels, mask=this.mask)


@settings(max_examples=120, **FUZZ)
@given(data=st.data())
def test_broken_models_are_reported(fuzz, data):
    this = call(data, fuzz, (*fuzz.SILENT, *fuzz.DOUBTFUL, *fuzz.RAISES), least=1, losses=False)
    if this.labels is None:  # the estimator's own predictions of such a model are anything
        this.labels = this.y.numpy()
    with fuzz.untouched(this.net, *owned(this)):
        if this.wrong or this.net.kind in ("one column", "no batch"):
            fuzz.refused(lambda: attacked(this))
        elif this.net.kind == "own error":
            with pytest.raises((fuzz.OwnError, ValueError) if fuzz.overflows(this.s) else fuzz.OwnError):
                attacked(this)
        else:
            checked(fuzz, this)


def faults(this):
    """One wrong value each; every one has to be refused whatever the rest of the call is."""
    x, y, classes = this.x.numpy(), this.y.numpy(), this.classes
    n, c, h, w = x.shape
    spoiled = {name: x.copy() for name in ("nan", "inf", "outside")}
    spoiled["nan"][-1, 0, 0, 0], spoiled["inf"][0, -1, -1, -1] = np.nan, np.inf
    spoiled["outside"][-1, -1, -1, -1] += 1000
    samples = [*(spoiled[name] for name in ("nan", "inf", *(["outside"] if this.clip else []))), x[0], x[None], x[0, 0]]
    samples += ["images", [[1.0], [1.0, 2.0]], np.array([["a"]]), x.astype(complex), np.array(x, dtype=object)[:, :0]]
    negative = y.copy()
    negative[-1] = -1
    labels = [
        negative,
        y + classes,
        np.append(y, 0),
        y + 0.5,
        np.full(n, np.nan),
        y[:, None, None],
        np.array(["a"] * n),
    ]
    labels += [np.eye(classes + 1)[y], y[:-1], 0]
    masks = [np.ones((n + 1, c, h, w)), np.ones((h + 1, w)), -np.ones((h, w)), np.full((h, w), np.nan), "mask", 1j]
    flags = ("targeted", "exact_rank", "early_stop", "thorough", "use_budget", "verbose")
    wrong = {
        "eps": [
            -0.1,
            np.nan,
            np.inf,
            "0.5",
            None,
            True,
            [0.5],
            1j,
            np.full(n + 1, 0.5),
            np.full(n, -1.0),
            np.array(["a"]),
        ],
        "eps_step": [0, -1.0, np.nan, "x", True, [0.5], np.zeros(n)],
        "rank": [0, -1, 1.0, np.nan, "half", None, True, [1], np.array([1, 2]), min(h, w) + 1],
        "max_iter": [-1, 2.5, "3", None, True, np.array([1, 2])],
        "norm": [1, 3, "l2", "L2", None, True, [2], np.array([2, 2])],
        "method": ["", "Power", None, ["power"]],
        "loss": ["", "hinge", None, ["ce"]],
        "precision": ["float16", None, torch.float16],
        "decay": [-0.1, np.nan, np.inf, "x", [0.9]],
        "tile": [0, 1.5, "x", True],
        "seed": ["x", 1.5, True, [1]],
        "num_random_init": [-1, 1.5, None, True],
        "batch_size": [0, -1, 1.5, None, True],
        "image_shape": [(h * w + 1,), (c * h + 1, w), "x", 3, (0, 1), (c, h + 1, w)],
        "init": ["", "svd", None, 1, np.zeros((n, c, h, 1))],
        **{flag: [1, "yes", None] for flag in flags},
    }
    return [
        *({"samples": value} for value in samples),
        *({"labels": value} for value in labels),
        *({"mask": value} for value in masks),
        *({"options": {name: value}} for name, values in wrong.items() for value in values),
    ]


@settings(max_examples=200, **FUZZ)
@given(data=st.data())
def test_one_wrong_value_is_refused(fuzz, data):
    this = call(data, fuzz, fuzz.LOGITS, least=1)
    table = faults(this)
    changed = table[data.draw(st.integers(0, len(table) - 1))]
    with fuzz.untouched(this.net, *owned(this)):
        text = fuzz.refused(lambda: attacked(this, **changed))
    assert "step_size" not in text.replace("eps_step_size", "")
