"""Every architecture of RobustBench's zoo that can be built without network is built, and the plans name real ones."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

if find_spec("robustbench") is None:
    pytest.skip("the extra art-lowrank[robustbench] is not installed", allow_module_level=True)

from art_lowrank.evaluate.catalog.attacks import attack_entry
from art_lowrank.evaluate.plan import read_plan, specs
from art_lowrank.evaluate.published import published
from art_lowrank.hosts import robustbench as host

BOARDS = (("cifar10", "L2"), ("cifar10", "Linf"), ("cifar100", "Linf"), ("imagenet", "Linf"))
NOT_HERE = {("cifar100", "Bai2023Improving_edm"), ("cifar100", "Bai2023Improving_trades")}
PLANS = sorted(Path(__file__).parent.glob("*.toml"))
ZOO = [(dataset, threat, name) for dataset, threat in BOARDS for name in host.available(dataset, threat)]


def small_only(draw):
    """Random numbers for small tensors, some of which are checked; most of the time goes into large ones."""
    return lambda tensor, *given, **named: tensor if tensor.numel() > 2e6 else draw(tensor, *given, **named)


@pytest.mark.parametrize(("dataset", "threat", "name"), ZOO, ids=lambda part: str(part))
def test_it_builds(dataset, threat, name, monkeypatch):
    if (dataset, name) in NOT_HERE and not torch.cuda.is_available():
        pytest.skip("its constructor needs CUDA")
    try:
        with torch.device("meta"):
            model = host.architecture(name, dataset, threat)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # some make tensors of numbers meanwhile
        for draw in ("normal_", "uniform_", "erfinv_"):
            monkeypatch.setattr(torch.Tensor, draw, small_only(getattr(torch.Tensor, draw)))
        model = host.architecture(name, dataset, threat)
    assert isinstance(model, nn.Module)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


@pytest.mark.parametrize(
    ("dataset", "threat", "name", "size"),
    [
        ("cifar10", "L2", "Ding2020MMA", 32),
        ("cifar10", "L2", "Rice2020Overfitting", 32),
        ("cifar10", "Linf", "Wong2020Fast", 32),
        ("imagenet", "Linf", "Salman2020Do_R18", 224),
    ],
)
def test_a_small_one_is_attacked(dataset, threat, name, size):
    from art_lowrank import lowrank_pgd

    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = host.architecture(name, dataset, threat)
    y = model(x).argmax(1)
    attacked = lowrank_pgd(model, x, y, eps=0.5, rank=3, steps=2)
    assert not bool(attacked.dead.any())
    assert attacked.x.shape == x.shape


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_names_models_and_attacks_that_exist(path):
    plan = read_plan(path, {})
    for model in plan.models:
        dataset, threat, name = model.removeprefix("robustbench:").split("/")
        assert name in host.available(dataset, threat)
        assert published(model) is not None
    for spec in specs(plan.attacks, "attacks"):
        if not spec.name.startswith(("auto", "apgd")) or find_spec("pyautoattack"):
            assert attack_entry(spec, plan.norm, plan.eps).threat.norm == plan.norm
    assert set(tomllib.loads(path.read_text())) >= {"models", "attacks", "data", "norm", "eps", "images"}
