"""What of a model does not pickle, and which modules go along with it."""

from __future__ import annotations

import pickle
import sys
import threading

import pytest
import torch
from torch import nn

from art_lowrank.evaluate.bench import Subject
from art_lowrank.evaluate.sending import culprit, own_modules, packed


def part(value):
    """A net with something in it."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].kept = value
    return net


class Held:
    def __init__(self, value):
        self.value = value


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "where", "what"),
    [
        (LOCK, "model.1.kept", "lock"),
        ({"a": [1, LOCK]}, "model.1.kept['a'][1]", "lock"),
        (Held(LOCK), "model.1.kept.value", "lock"),
        (lambda: 0, "model.1.kept", "function"),
        ((x for x in ()), "model.1.kept", "generator"),
        (part(Held({0: LOCK})), "model.1.kept.1.kept.value[0]", "lock"),
    ],
)
def test_the_innermost_attribute_is_named(value, where, what):
    assert culprit(part(value), pickle.dumps) == (where, what)
    with pytest.raises(ValueError, match="does not pickle") as caught:
        packed(Subject(part(value), "hash"), pickle.dumps)
    assert str(caught.value).startswith(f"{where} (a {what}) does not pickle: ")


def test_a_hook_is_found():
    net = part(None)
    net[1].register_forward_hook(lambda *_: None)
    assert culprit(net, pickle.dumps)[0].startswith("model.1._forward_hooks[")


def test_a_closure_is_looked_into():
    cloudpickle = pytest.importorskip("cloudpickle")
    lock = threading.Lock()
    assert culprit(part(lambda: lock), cloudpickle.dumps) == ("model.1.kept.lock", "lock")


def test_what_pickles_comes_back_whole():
    subject = Subject(part(3), "hash", packages=("timm",))
    found = pickle.loads(packed(subject, pickle.dumps))
    assert (found.hash, found.packages, found.model[1].kept) == ("hash", ("timm",), 3)
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(found.model(x), subject.model(x))


def test_own_modules_are_those_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("mine_alone")
    try:
        assert own_modules(tmp_path) == [module]
        assert module not in own_modules(tmp_path / "elsewhere")
    finally:
        del sys.modules["mine_alone"]
