"""The README is executed: its examples run one after another, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from art_lowrank.demo.digits import digits

README = Path(__file__).parents[1] / "README.md"
SETUP, *EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall(r"import (\w+)", text)[-1])
def test_example_runs(example, digits_net, tmp_path, monkeypatch):
    if "LoRaPGD" in example:
        pytest.importorskip("torchattacks", reason="the extra art-lowrank[torchattacks] is not installed")
    assert example.count("\n") <= 14
    monkeypatch.chdir(tmp_path)
    train, test = digits()
    names = {"torch": torch, "train": train, "model": digits_net, "images": test.x[:100], "labels": test.y[:100]}
    exec(compile(example, "README.md", "exec"), names)
    for name in ("x_adv", "rows_adv", "adv_images", "same"):
        if name in names:
            assert len(names[name]) == 100
            assert 0 <= float(names[name].min()) <= float(names[name].max()) <= 1


def test_set_up():
    names = {}
    exec(compile(SETUP, "README.md", "exec"), names)
    assert names["model"](names["images"]).shape == (len(names["labels"]), 10)


def test_every_host_has_an_example():
    assert len(EXAMPLES) == 10
    for name in (
        "lowrank_pgd",
        "rank_curve",
        "exact_rank",
        "LowRankPGD",
        "LoRaPGD",
        "factorize",
        "LowRankTrainer",
        "warm_started",
        "Plan",
    ):
        assert any(name in example for example in EXAMPLES)


def test_local_links_exist():
    if not (README.parent / "CONTRIBUTING.md").exists():
        pytest.skip("this copy of the README is not in a checkout")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
