"""AutoAttack through either package: their numbers, resumable, and nothing of the caller's changed."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

if find_spec("pyautoattack") is None:
    pytest.skip("the extra art-lowrank[robustbench] is not installed", allow_module_level=True)

import pyautoattack

from art_lowrank.hosts import autoattack, autoattack_members

AT = {"norm": "Linf", "eps": 0.01}


def small_net(classes=10, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)).eval()


@pytest.fixture
def net():
    return small_net()


@pytest.fixture
def images(net):
    x = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    y[3] = (y[3] + 1) % 10  # wrong before any attack
    return x, y


def theirs(net, x, y, names, bs, **options):
    """The package's own run, without its lines."""
    made = pyautoattack.AutoAttack(net, version="custom", attacks=names, seed=0, **options)
    made.apgd.n_restarts = made.fab.n_restarts = 1
    return made.run_standard_evaluation(x, y, batch_size=bs)[0]


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.01), ("L2", 0.2)])
def test_images_are_those_of_the_package_bit_for_bit(net, images, norm, eps):
    names = ["apgd-ce", "apgd-t", "fab-t"]
    ours = autoattack.standard(net, *images, norm=norm, eps=eps, members=names, batch_size=4)
    assert torch.equal(ours, theirs(net, *images, names, 4, norm=norm, eps=eps))
    changed = (ours != images[0]).flatten(1).any(1)
    assert 0 < changed.sum() < 10
    assert not changed[3]
    assert ((net(ours).argmax(1) != images[1]) == (changed | (torch.arange(11) == 3))).all()


def test_versions_set_what_autoattack_sets(net):
    for version, names in autoattack.VERSIONS.items():
        whole = pyautoattack.AutoAttack(net, norm="L2", eps=0.1, seed=0, version=version)
        assert tuple(whole.attacks_to_run) == names
        for name in names:
            ours = autoattack_members._built(
                net, name, 10, version, {"norm": "L2", "eps": 0.1, "seed": 0, "device": "cpu"}
            )
            attack = {"apgd-t": whole.apgd_targeted, "square": whole.square}.get(
                name, whole.apgd if name.startswith("apgd") else whole.fab
            )
            fixed = {"n_restarts": 1} if name == "fab-t" else {}  # set when it runs
            for key in ("n_iter", "n_restarts", "eot_iter", "n_target_classes", "n_queries", "p_init", "use_largereps"):
                assert getattr(ours, key, None) == fixed.get(key, getattr(attack, key, None)), (version, name, key)


def test_large_l1_balls(net):
    ours = autoattack_members._built(
        net, "apgd-t", 10, "standard", {"norm": "L1", "eps": 1.0, "seed": 0, "device": "cpu"}
    )
    assert (ours.use_largereps, ours.n_target_classes) == (True, 5)


@pytest.mark.parametrize("name", ["apgd-ce", "fab-t"])
def test_nothing_of_the_callers_changes(net, images, name, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    net.train()
    net[0].eval()
    net[3].weight.requires_grad_(False)
    net[3].bias.grad = torch.ones(10)
    x, y = images
    before, drawn, numbers = x.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()

    def tracer(*_):
        return None

    was = sys.gettrace()
    sys.settrace(tracer)
    try:
        autoattack.member(net, x, y, name, **AT)
        kept = sys.gettrace()
    finally:
        sys.settrace(was)
    assert kept is tracer
    assert [m.training for m in net] == [False, True, True, True]
    assert [p.requires_grad for p in net.parameters()] == [True, True, False, True]
    assert net[0].weight.grad is None
    assert torch.equal(net[3].bias.grad, torch.ones(10))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (np.random.get_state()[1] == numbers).all()
    assert torch.equal(x, before)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_failing_model_is_left_as_it_was(net, images):
    net.train()
    drawn = torch.get_rng_state()
    with pytest.raises(Interrupted):
        autoattack.member(Counting(net, 3), *images, "apgd-ce", **AT)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


class Interrupted(Exception):
    pass


class Counting(nn.Module):
    """A model that counts its calls, and fails at one of them."""

    def __init__(self, net, last=None):
        super().__init__()
        self.net, self.calls, self.last = net, 0, last

    def forward(self, x):
        self.calls += 1
        if self.calls == self.last:
            raise Interrupted
        return self.net(x)


NAMES = {**AT, "members": ["apgd-ce", "apgd-dlr"], "batch_size": 3}


def test_a_run_goes_on_where_it_was_and_gives_all_images(net, images, tmp_path):
    whole, path = Counting(net), tmp_path / "state.safetensors"
    expected = autoattack.standard(whole, *images, **NAMES)
    broken = (expected != images[0]).flatten(1).any(1)
    for last in (300, 500, 60):
        path.unlink(missing_ok=True)
        with pytest.raises(Interrupted):
            autoattack.standard(Counting(net, last), *images, **NAMES, state=path)
        rest = Counting(net)
        found = autoattack.standard(rest, *images, **NAMES, state=path)
        assert torch.equal(found, expected)
        assert last < 120 or rest.calls < whole.calls - 80  # batches done are not done again
        done = Counting(net)
        assert torch.equal(autoattack.standard(done, *images, **NAMES, state=path), expected)
        assert done.calls == 1  # to count the classes
    assert broken.any()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_state_of_another_run_is_refused(net, images, tmp_path):
    x, y = images
    path = tmp_path / "state"
    autoattack.standard(net, x, y, **NAMES, state=path)
    for other, words in (
        ({"eps": 0.02}, r"eps = 0.01, not 0.02"),
        ({"members": ["apgd-ce"]}, r"members = \['apgd-ce', 'apgd-dlr'\], not \['apgd-ce'\]"),
        ({"seed": 1, "batch_size": 4}, r"seed = 0, not 1; batch_size = 3, not 4"),
    ):
        with pytest.raises(ValueError, match=words):
            autoattack.standard(net, x, y, **{**NAMES, **other}, state=path)
    for other, word in (
        ((net, x * 0.9, y), "images"),
        ((net, x, y.flip(0)), "labels"),
        ((small_net(seed=1), x, y), "model"),
    ):
        with pytest.raises(ValueError, match=f"other {word}") as caught:
            autoattack.standard(*other, **NAMES, state=path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:50], lambda b: b[:-5], lambda b: b"{}", lambda b: b.replace(b"attack 1", b"attack 0")]
)
def test_a_damaged_state_is_refused(net, images, tmp_path, spoil):
    path = tmp_path / "state"
    autoattack.standard(net, *images, **AT, members=["apgd-ce"], state=path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"state is no whole state of an AutoAttack run .*remove it") as caught:
        autoattack.standard(net, *images, **AT, members=["apgd-ce"], state=path)
    assert "\n" not in str(caught.value)


def test_few_classes(images):
    x, net = images[0], small_net(3)
    y = net(x).argmax(1)
    for name in ("apgd-ce", "apgd-dlr", "fab-t"):
        assert (net(autoattack.member(net, x, y, name, norm="L2", eps=2.0)).argmax(1) != y).any(), name
    with pytest.raises(
        ValueError, match=r"apgd-t needs 4 classes and the model has 3; choose .*apgd-ce, apgd-dlr, fab, fab-t"
    ):
        autoattack.standard(Counting(net, 2), x, y, **AT)  # before anything is attacked
    with pytest.raises(ValueError, match="apgd-dlr needs 3 classes and the model has 2"):
        autoattack.member(small_net(2), x, y.clamp(max=1), "apgd-dlr", **AT)
    assert autoattack.member(small_net(5), x, y, "apgd-t", **AT).shape == x.shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": "linf"}, "norm is 'linf'; AutoAttack has Linf, L2, L1"),
        ({"eps": 0}, "eps is 0; give one radius"),
        ({"version": "std"}, "version is 'std'; choose one of standard"),
        ({"members": ["pgd"]}, "member 'pgd' is none of AutoAttack's"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"state": "/nowhere/at/all"}, "folder of the state /nowhere/at/all is not there"),
    ],
)
def test_errors_say_what_to_do(net, images, change, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        autoattack.standard(net, *images, **{**AT, **change})


def test_bad_images_and_labels(net, images):
    x, y = images
    with pytest.raises(ValueError, match=r"float64 and AutoAttack works in float32"):
        autoattack.member(net, x.double(), y, "apgd-ce", **AT)
    with pytest.raises(ValueError, match="label 12 is out of range: the model has 10"):
        autoattack.member(net, x, y.clone().fill_(12), "apgd-ce", **AT)
    assert autoattack.standard(net, x[:0], y[:0], **AT).shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match="the model returns"):
        autoattack.member(lambda x: x, x, y, "apgd-ce", **AT)


def test_the_original_class(net, images, tmp_path, capsys):
    log = tmp_path / "log"
    made = autoattack.AutoAttack(
        net, eps=0.01, version="custom", attacks_to_run=["apgd-ce"], log_path=log
    )  # device "cuda" on any machine
    found, answers = made.run_standard_evaluation(*images, bs=4, return_labels=True)
    assert torch.equal(
        found, autoattack.standard(net, *images, **AT, version="plus", members=["apgd-ce"], batch_size=4)
    )
    assert torch.equal(answers, net(found).argmax(1))
    share = (answers == images[1]).double().mean()
    shown = capsys.readouterr().out
    assert f"robust accuracy after APGD-CE: {share:.2%} (total time " in shown
    assert log.read_text() == shown
    assert made.clean_accuracy(*images) == pytest.approx(10 / 11)
    alone = made.run_standard_evaluation_individual(*images)
    assert list(alone) == made.attacks_to_run == ["apgd-ce"]
    assert made.verbose
    path = tmp_path / "state"
    for _ in range(2):
        assert torch.equal(made.run_standard_evaluation(*images, bs=4, state_path=path), found)
    with pytest.raises(ValueError, match=r"attacks_to_run is \['fab'\]; it needs version='custom'"):
        autoattack.AutoAttack(net, attacks_to_run=["fab"])
    with pytest.raises(ValueError, match="attacks_to_run is empty"):
        autoattack.AutoAttack(net, version="custom", verbose=False).run_standard_evaluation(*images)


def test_which_package(monkeypatch, tmp_path):
    spec = find_spec("pyautoattack")
    (tmp_path / "autoattack").symlink_to(spec.submodule_search_locations[0])
    old = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "autoattack"}
    try:
        monkeypatch.syspath_prepend(tmp_path)
        assert autoattack.package() == "autoattack"
        for name in [name for name in sys.modules if name.split(".")[0] == "autoattack"]:
            del sys.modules[name]
        monkeypatch.setitem(sys.modules, "autoattack", None)
        assert autoattack.package() == "pyautoattack"
        monkeypatch.setitem(sys.modules, "pyautoattack", None)
        with pytest.raises(ImportError, match=r"pip install robustbench pyautoattack"):
            autoattack.backend()
    finally:
        monkeypatch.undo()
        sys.modules.update(old)
