"""lowrank_pgd under random calls: a result that keeps every promise, or one clear line; never a silent wrong answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank import Factors, lowrank_pgd

# derandomize: every machine and every commit sees the same cases, so that a red run is this commit's fault.
FUZZ = {"deadline": None, "derandomize": True, "database": None}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float32, torch.float64)
CLIPS = ((0.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.1, 0.7), None, "tensors")


def call(data, fuzz, kinds, least=0):
    """A model, images, labels, settings and range; and the words for what the settings exclude."""
    draw = data.draw
    n, c, h, w = shape = tuple(draw(st.tuples(*(st.integers(*ends) for ends in ((least, 5), (1, 3), (1, 8), (1, 8))))))
    classes, dtype = draw(st.integers(2, 5)), draw(st.sampled_from(DTYPES))
    clip = draw(st.sampled_from(CLIPS))
    if clip == "tensors":
        clip = torch.tensor([0.0, -0.25, 0.5])[:c].view(c, 1, 1), torch.tensor([1.0, 0.5, 2.0])[:c].view(c, 1, 1)
    low, high = (-2.0, 2.0) if clip is None else clip
    x = fuzz.fuzz_images(draw, st, shape, low, high, dtype)
    y = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    y = y.to(draw(st.sampled_from([torch.int64, torch.int32, torch.uint8])))
    wide = dtype if dtype == torch.float64 else torch.float32
    net = fuzz.FuzzNet(draw(st.sampled_from(kinds)), (c, h, w), classes, draw(st.integers(0, 9)), wide)
    s = fuzz.fuzz_settings(draw, st, shape, classes, float(torch.as_tensor(high - low).max()))
    ball = "inf" if s["norm"] == np.inf else str(s["norm"])
    return net, x, y, {**s, "clip": clip}, ball, fuzz.conflicts(s, ball, classes, n)


def values_of(s):
    return [s[name] for name in ("eps", "mask", "init", "step_size")]


@settings(max_examples=300, **FUZZ)
@given(data=st.data())
def test_valid_calls_keep_every_promise_and_others_are_refused(fuzz, data):
    net, x, y, s, ball, wrong = call(data, fuzz, fuzz.LOGITS)
    with fuzz.untouched(net, x, y, *values_of(s)):
        if wrong:
            fuzz.refused(lambda: lowrank_pgd(net, x, y, **s))
            return
        found = fuzz.judged(lambda: lowrank_pgd(net, x, y, **s), s)
        if found is None:
            return
        assert net.seen == int(found.queries.forwards.sum())
        fuzz.check_result(found, x, y.long(), s, ball, s["clip"], net)
        if s["seed"] is not None:
            assert torch.equal(found.x, fuzz.quietly(lambda: lowrank_pgd(net, x, y, **s)).x)


@settings(max_examples=150, **FUZZ)
@given(data=st.data())
def test_broken_models_are_reported(fuzz, data):
    net, x, y, s, ball, wrong = call(data, fuzz, (*fuzz.SILENT, *fuzz.DOUBTFUL, *fuzz.RAISES), least=1)
    with fuzz.untouched(net, x, y, *values_of(s)):
        if wrong or net.kind in ("one column", "no batch"):
            fuzz.refused(lambda: lowrank_pgd(net, x, y, **s))
        elif net.kind == "own error":
            with pytest.raises((fuzz.OwnError, ValueError) if fuzz.overflows(s) else fuzz.OwnError):
                lowrank_pgd(net, x, y, **s)
        else:
            found = fuzz.judged(lambda: lowrank_pgd(net, x, y, **s), s)
            if found is not None:
                fuzz.check_result(found, x, y.long(), s, ball, s["clip"], net)


def faults(x, y, classes):
    """One wrong value each; every one has to be refused whatever the rest of the call is."""
    n, c, h, w = x.shape
    spoiled = {name: x.clone() for name in ("nan", "inf", "outside")}
    spoiled["nan"][-1, 0, 0, 0], spoiled["inf"][0, -1, -1, -1] = torch.nan, -torch.inf
    spoiled["outside"][-1, -1, -1, -1] += 1000
    negative = y.long().clone()
    negative[-1] = -1
    return [
        *(("x", value) for value in spoiled.values()),
        *(("x", value) for value in (x[0], x[None], x.int(), x.to(torch.uint8), x > 0, x.to(torch.complex64))),
        *(("x", value) for value in (x.float().numpy(), None, [1.0], "images")),
        *(("y", value) for value in (negative, y.long() + classes, torch.cat([y, y[:1]]), y.float(), y[:, None])),
        *(("y", value) for value in (None, y.tolist(), y.numpy(), torch.nn.functional.one_hot(y.long(), classes))),
        *(("eps", value) for value in (-0.1, torch.nan, torch.inf, "0.5", None, True, 1j, [[]], torch.ones(n + 1))),
        *(("eps", value) for value in (torch.full((n,), torch.nan), -torch.ones(n), torch.ones(1, n + 1, c, h, w))),
        *(("rank", value) for value in (0, -1, 1.0, 1.5, 0.0, torch.nan, "half", None, True, 10**30, [1], (1, 2))),
        *(("rank", value) for value in (min(h, w) + 1, torch.tensor(1), np.array([1, 2]))),
        *(("steps", value) for value in (-1, 2.5, "3", None, True, [3], np.array([1, 2]))),
        *(("norm", value) for value in (1, 3, 0, -2, "l2", "2", None, True, torch.nan, [2], np.array([2, 2]))),
        *(("method", value) for value in ("", "Power", None, 1, ["power"], np.array(["power", "paper"]))),
        *(("loss", value) for value in ("", "estimator", "hinge", None, 0, ["ce"])),
        *(("precision", value) for value in ("float16", "", None, 16, torch.float16)),
        *(("step_size", value) for value in (0, -1.0, torch.nan, torch.inf, "x", True, torch.zeros(n))),
        *(("decay", value) for value in (-0.1, torch.nan, torch.inf, "x", [0.9], 1j)),
        *(("tile", value) for value in (0, -1, 1.5, "x", True, [1])),
        *(("seed", value) for value in ("x", 1.5, True, [1], torch.nan)),
        *(("restarts", value) for value in (0, -1, 1.5, None, True)),
        *((flag, value) for flag in ("targeted", "exact_rank", "early_stop", "thorough") for value in (1, "yes", None)),
        *(("clip", value) for value in ((1, 0), (0, 0), 3, (0,), (0, 1, 2), "01", (torch.nan, 1), (0, torch.inf))),
        *(("clip", value) for value in (("a", "b"), (None, 1), (torch.zeros(7, 1), torch.ones(8, 1)))),
        *(("mask", value) for value in (torch.ones(n + 1, c, h, w), torch.ones(h + 1, w), -torch.ones(h, w))),
        *(("mask", value) for value in (torch.full((h, w), torch.nan), "mask", [[1, 0], [1]], torch.ones(h, w) * 1j)),
        *(("init", value) for value in ("", "svd", None, 1, torch.zeros(n, c, h, 1))),
        ("init", Factors(torch.zeros(n, c, h, 1), torch.zeros(n, c, 1, w + 1))),
        ("init", Factors(torch.zeros(n + 1, c, h, 1), torch.zeros(n + 1, c, 1, w))),
        ("init", Factors(torch.full((n, c, h, 1), torch.nan), torch.zeros(n, c, 1, w))),
        ("init", Factors(torch.zeros(n, h, 1), torch.zeros(n, 1, w))),
        ("model", None), ("model", 1),
    ]  # fmt: skip


@settings(max_examples=200, **FUZZ)
@given(data=st.data())
def test_one_wrong_value_is_refused(fuzz, data):
    net, x, y, s, _, _ = call(data, fuzz, fuzz.LOGITS, least=1)
    s = {**s, "clip": (-300.0, 300.0)} if s["clip"] is None else s
    table = faults(x, y, 5)
    name, value = table[data.draw(st.integers(0, len(table) - 1))]
    spoiled = {"model": net, "x": x, "y": y, **s, name: value}
    with fuzz.untouched(net, x, y, *values_of(s)):
        text = fuzz.refused(lambda: lowrank_pgd(**spoiled))
        assert "internal" not in text.lower()
