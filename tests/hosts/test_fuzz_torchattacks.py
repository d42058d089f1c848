"""LoRaPGD under random calls: a result that keeps every promise, or one clear line; never a silent wrong answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torchattacks", reason="the extra art-lowrank[torchattacks] is not installed")

from art_lowrank import LoRaPGD

# derandomize: every machine and every commit sees the same cases, so that a red run is this commit's fault.
FUZZ = {"deadline": None, "derandomize": True, "database": None}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float32, torch.float64)
NORMS = {"2": "L2", "inf": "Linf", "nuc": "nuc", "group-nuc": "group-nuc"}
OWN = ("rank", "steps", "loss", "method", "exact_rank", "early_stop", "seed", "tile", "use_budget", "thorough")
OWN += ("precision", "init", "eps")


def call(data, fuzz, kinds, least=0):
    """A model, images, labels, settings in the core's words and in torchattacks', and what the settings exclude."""
    draw = data.draw
    shape = n, c, h, w = draw(st.tuples(*(st.integers(*ends) for ends in ((least, 5), (1, 3), (1, 8), (1, 8)))))
    classes, dtype = draw(st.integers(2, 5)), draw(st.sampled_from(DTYPES))
    x = fuzz.fuzz_images(draw, st, shape, 0.0, 1.0, dtype)
    y = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    y = y.to(draw(st.sampled_from([torch.int64, torch.int32, torch.uint8])))
    wide = dtype if dtype == torch.float64 else torch.float32
    net = fuzz.FuzzNet(draw(st.sampled_from(kinds)), (c, h, w), classes, draw(st.integers(0, 9)), wide)
    s = fuzz.fuzz_settings(draw, st, shape, classes, 1.0, without={"mask": None, "decay": None, "restarts": 1})
    ball = "inf" if s["norm"] == np.inf else str(s["norm"])
    given = {**{name: s[name] for name in OWN}, "norm": NORMS[ball], "alpha": s["step_size"]}
    if s["seed"] == 0:
        given["random_start"] = draw(st.booleans())
    return net, x, y, s, ball, given, fuzz.conflicts(s, ball, classes, n)


def made(net, given, targeted):
    """The attack, attacking targets by label if so asked."""
    attack = LoRaPGD(net, **given)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack


def values_of(s):
    return [s[name] for name in ("eps", "init", "step_size")]


@settings(max_examples=260, **FUZZ)
@given(data=st.data())
def test_valid_calls_keep_every_promise_and_others_are_refused(fuzz, data):
    net, x, y, s, ball, given, wrong = call(data, fuzz, fuzz.LOGITS)
    with fuzz.untouched(net, x, y, *values_of(s)):
        if wrong:
            fuzz.refused(lambda: made(net, given, s["targeted"])(x, y))
            return
        found = fuzz.judged(lambda: made(net, given, s["targeted"]).attacked(x, y), s)
        if found is None:
            return
        assert net.seen == int(found.queries.forwards.sum())
        fuzz.check_result(found, x, y.long(), s, ball, (0.0, 1.0), net)
        if s["seed"] is not None:
            again = fuzz.quietly(lambda: made(net, given, s["targeted"]).attacked(x, y))
            assert torch.equal(found.x, again.x)
            assert torch.equal(found.margin, again.margin)


@settings(max_examples=80, **FUZZ)
@given(data=st.data())
def test_targets_that_torchattacks_chooses(fuzz, data):
    net, x, y, s, ball, given, wrong = call(data, fuzz, fuzz.LOGITS)
    targeted, least_likely = {**s, "targeted": True}, data.draw(st.booleans())
    if wrong or s["thorough"]:
        return

    def attack():
        attack = made(net, given, False)
        (attack.set_mode_targeted_least_likely if least_likely else attack.set_mode_targeted_random)(quiet=True)
        return attack.attacked(x, y)

    with torch.random.fork_rng(devices=[]):  # torchattacks draws its random targets from the global state
        found = fuzz.judged(attack, targeted)
    if found is not None and least_likely:
        others = torch.as_tensor(net.predicted(x)).scatter(1, y.long()[:, None], torch.inf) if len(x) else y[:, None]
        fuzz.check_result(found, x, others.argmin(1), targeted, ball, (0.0, 1.0), net)


@settings(max_examples=120, **FUZZ)
@given(data=st.data())
def test_broken_models_are_reported(fuzz, data):
    net, x, y, s, ball, given, wrong = call(data, fuzz, (*fuzz.SILENT, *fuzz.DOUBTFUL, *fuzz.RAISES), least=1)
    with fuzz.untouched(net, x, y, *values_of(s)):
        if wrong or net.kind in ("one column", "no batch"):
            fuzz.refused(lambda: made(net, given, s["targeted"])(x, y))
        elif net.kind == "own error":
            with pytest.raises((fuzz.OwnError, ValueError) if fuzz.overflows(s) else fuzz.OwnError):
                made(net, given, s["targeted"])(x, y)
        else:
            found = fuzz.judged(lambda: made(net, given, s["targeted"]).attacked(x, y), s)
            if found is not None:
                fuzz.check_result(found, x, y.long(), s, ball, (0.0, 1.0), net)


def faults(x, y, classes):
    """One wrong value each; every one has to be refused whatever the rest of the call is."""
    n, c, h, w = x.shape
    spoiled = {name: x.clone() for name in ("nan", "inf", "outside")}
    spoiled["nan"][-1, 0, 0, 0], spoiled["inf"][0, -1, -1, -1] = torch.nan, -torch.inf
    spoiled["outside"][-1, -1, -1, -1] += 1.5
    negative = y.long().clone()
    negative[-1] = -1
    return [
        *(("x", value) for value in spoiled.values()),
        *(("x", value) for value in (x[0], x[None], (x * 255).to(torch.uint8), x > 0, x.float().numpy(), None, [1.0])),
        *(("y", value) for value in (negative, y.long() + classes, torch.cat([y, y[:1]]), y.float(), y[:, None])),
        *(("y", value) for value in (None, y.tolist(), y.numpy(), torch.nn.functional.one_hot(y.long(), classes))),
        *(("eps", value) for value in (-0.1, torch.nan, "0.5", None, True, torch.ones(n + 1), torch.full((n,), -1.0))),
        *(("rank", value) for value in (0, -1, 1.0, torch.nan, "half", None, True, [1], min(h, w) + 1)),
        *(("steps", value) for value in (-1, 2.5, "3", None, True)),
        *(("norm", value) for value in (2, torch.inf, "l2", "LINF", None, ["L2"], torch.ones(2))),
        *(("method", value) for value in ("", "Power", None, ["power"])),
        *(("loss", value) for value in ("", "estimator", "hinge", None, ["ce"])),
        *(("precision", value) for value in ("float16", None, torch.float16)),
        *(("alpha", value) for value in (0, -1.0, torch.nan, "x", True, torch.zeros(n))),
        *(("tile", value) for value in (0, 1.5, "x", True)),
        *(("seed", value) for value in ("x", 1.5, True, [1])),
        *((flag, value) for flag in ("random_start", "exact_rank", "early_stop") for value in (1, "yes", None)),
        *((flag, value) for flag in ("thorough", "use_budget") for value in (1, "yes", None)),
        *(("init", value) for value in ("", "svd", None, 1, torch.zeros(n, c, h, 1))),
    ]  # fmt: skip


@settings(max_examples=200, **FUZZ)
@given(data=st.data())
def test_one_wrong_value_is_refused(fuzz, data):
    net, x, y, s, _, given, _ = call(data, fuzz, fuzz.LOGITS, least=1)
    table = faults(x, y, 5)
    name, value = table[data.draw(st.integers(0, len(table) - 1))]
    given = {**given, "random_start": True}  # without it the seed plays no part
    images, labels = value if name == "x" else x, value if name == "y" else y
    given = given if name in "xy" else {**given, name: value}
    with fuzz.untouched(net, x, y, *values_of(s)):
        text = fuzz.refused(lambda: made(net, given, s["targeted"])(images, labels))
    assert "step_size" not in text
