"""The doctor finds what is missing, broken or wrongly fed, and says the line that mends it."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from art_lowrank.cli import main
from art_lowrank.demo.digits import digits
from art_lowrank.demo.nets import built_in
from art_lowrank.evaluate.catalog.normalised import Normalised
from art_lowrank.evaluate.doctor import BROKEN, CHECKS, MISSING, OK, Check, finding
from art_lowrank.evaluate.normalisation import input_of
from art_lowrank.evaluate.spec import Spec

CPU = torch.device("cpu")


def test_what_is_needed_works_here():
    needed = [check for check in CHECKS if check.needed]
    assert [check.name for check in needed] == ["torch", "the attack", "digits", "ART"]
    assert [finding(check).state for check in needed] == [OK] * 4
    assert all(check.remedy.startswith("pip install") for check in CHECKS)


def broken():
    raise RuntimeError("operator torchvision::nms does not exist")


def test_missing_and_broken_are_told_apart():
    missing = finding(Check("tool", "no_such_module", "no-such", broken, "pip install no-such"))
    assert (missing.state, missing.remedy) == (MISSING, "pip install no-such")
    assert finding(missing_but_needed := Check("t", "no_such_module", "n", broken, "r", needed=True)).state == BROKEN
    assert missing_but_needed.needed
    found = finding(Check("tool", "torch", "torch", broken, "pip install -U torchvision"))
    assert found.state == BROKEN
    assert "torchvision::nms" in str(found)
    assert "mend it: pip install -U torchvision" in str(found)


NET = Spec("nets:standard")


def fed(change, expected=0.92):
    test, net = digits()[1], change(built_in("standard"))
    return input_of(net, net, test.x[:200], test.y[:200], CPU, expected)


class Strict(nn.Module):
    """A net that is good on pixels from `low` to `high` only."""

    def __init__(self, net, low=0.0, high=1.0):
        super().__init__()
        self.net, self.low, self.high = net, low, high

    def forward(self, x):
        right = abs(float(x.min()) - self.low) + abs(float(x.max()) - self.high) < 0.1
        logits = self.net((x - self.low) / (self.high - self.low))
        return logits if right else torch.eye(10)[:1].expand(len(x), 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net: Normalised(net, scale=1 / 255), "pixels up to 255"),
        (lambda net: Strict(net, -1.0), "one half's normalisation clean"),
        (lambda net: Normalised(Strict(net), 0.5, 0.5), "undone once"),
    ],
)
def test_the_input_that_would_be_right_is_named(change, words):
    complaints = list(fed(change, None).complaints(NET))
    assert any(words in complaint and "write nets:standard[" in complaint for complaint in complaints), complaints


def test_a_sound_net_gets_no_complaint():
    assert not list(fed(lambda net: net).complaints(NET))
    assert 0.2 < fed(lambda net: net).reaction < 2


def test_low_accuracy_and_dead_logits_are_said():
    dark = fed(lambda net: Normalised(net, scale=1 / 255))
    text = "\n".join(dark.complaints(NET))
    assert "far below the 92.00 %" in text
    assert "hardly react" in text


def test_from_the_command_line():
    def run(*words):
        shown = CliRunner().invoke(main, ["doctor", *words], catch_exceptions=False)
        return shown.exit_code, shown.output

    assert run("--model", "digits:standard", "--expect", "92")[0] == 0
    code, shown = run("--model", "digits:standard[scale=0.004]", "--expect", "92")
    assert code == 1
    assert "with its input left as it is clean accuracy is 95.5 %" in shown
    assert shown.rstrip().endswith("write digits:standard")
    code, shown = run("--model", "digits:standart")
    assert code == 1
    assert "did you mean standard" in shown
