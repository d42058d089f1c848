"""`art-lowrank doctor`: what is installed, whether it works, and the one line that mends it."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import nn

from art_lowrank.attack.oracle import evaluating
from art_lowrank.evaluate.catalog.models import INPUT, model_entry
from art_lowrank.evaluate.catalog.normalised import Normalised
from art_lowrank.evaluate.normalisation import input_of
from art_lowrank.evaluate.plan import plan_of, specs
from art_lowrank.evaluate.published import published
from art_lowrank.evaluate.run import bench_of
from art_lowrank.evaluate.spec import Spec
from art_lowrank.hosts.autoattack_members import INSTALL
from art_lowrank.record import versions
from art_lowrank.training.checkpoint import reason

OK, MISSING, BROKEN = "ok", "missing", "BROKEN"


class Finding(NamedTuple):
    """One thing, how it is, and what to do about it."""

    name: str
    state: str
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:8s}{self.name:14s} {self.detail}" + (
            f"\n{'':23s}mend it: {self.remedy}" if self.remedy else ""
        )


class Check(NamedTuple):
    """Something that may be there and may work: `works` does a little real work and says what it saw."""

    name: str
    module: str  # missing, if this (or what comes after a bar) cannot be found
    distribution: str
    works: Callable[[], str]
    remedy: str
    needed: bool = False


def examine() -> Iterator[Finding]:
    """Every part of the installation; each is made to do something small."""
    found = versions("art-lowrank")
    yield Finding(
        "art-lowrank", OK, f"{found.get('art-lowrank', 'from a checkout')}, Python {platform.python_version()}"
    )
    for check in CHECKS:
        yield finding(check)


def finding(check: Check) -> Finding:
    """How one part is."""
    version = versions(check.distribution).get(check.distribution, "")
    if not _there(check.module):
        return Finding(check.name, BROKEN if check.needed else MISSING, "is not installed", check.remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = check.works()
    except Exception as error:  # whatever somebody's package does when it is touched
        return Finding(check.name, BROKEN, f"{version}: {reason(error)}".strip(": "), check.remedy)
    return Finding(check.name, OK, f"{version}{', ' if version and seen else ''}{seen}")


def model_finding(model: str, data: str, images: int, expected: float | None, given: dict[str, Any]) -> list[Finding]:
    """Whether one model is fed what it was trained on."""
    (spec,) = specs([model], "model")
    own: dict[str, Any] = {key: value for key, value in spec.options.items() if key in INPUT}
    parts = tuple(part for part in spec.parts if part.partition("=")[0] not in INPUT)
    base = Spec(spec.name, spec.words, {k: v for k, v in spec.options.items() if k not in INPUT}, parts)
    plan = plan_of({"models": [base.text], "data": [data], "attacks": ["lowrank-pgd"], **given}, "the flags")
    model_entry(spec, plan.model_dir)  # its own options are checked too
    bench = bench_of(plan)
    entry, subject = next(iter(bench.data.values())), bench.subject(base.text)
    x, y = entry.rows(0, min(images, entry.n), subject)
    card = published(base.text)
    expected = expected if expected is not None or card is None else card.clean / 100
    asked = Normalised(subject.model, **own).to(bench.device) if own else subject.model
    with evaluating(asked):
        found = input_of(asked, subject.model, x, y, bench.device, expected)
    if complaints := list(found.complaints(base)):
        return [Finding(spec.text, BROKEN, complaint) for complaint in complaints]
    beside = "" if expected is None else f" (it should have {100 * expected:.2f} %)"
    words = f"clean accuracy {found.clean.percent()} on {len(x)} images{beside}, logits react by {found.reaction:.0%}"
    return [Finding(spec.text, OK, words)]


def _there(module: str) -> bool:
    try:
        return any(find_spec(name) is not None for name in module.split("|"))
    except (ImportError, ValueError):  # a module in memory that nobody has found on a disk
        return True


def _torch() -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not bool(torch.isfinite(torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).all()):
        raise ArithmeticError(f"a product of two matrices of ones is not finite on {device}")
    return torch.cuda.get_device_name() if device == "cuda" else f"on the CPU, {torch.get_num_threads()} threads"


def _core() -> str:
    """On a linear model the best perturbation is known: the truncated weight difference, eps long."""
    from art_lowrank import lowrank_pgd

    weight = torch.linspace(-1, 1, 64).sin().view(1, 8, 8)
    linear = nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([weight.flatten(), -weight.flatten()]))
    net = nn.Sequential(nn.Flatten(), linear)
    x, y = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, dtype=torch.long)
    reached = float((net(x) - net(lowrank_pgd(net, x, y, eps=0.1, rank=2).x))[0] @ torch.tensor([1.0, -1.0]))
    best = 2 * 0.1 * float(torch.linalg.svdvals(weight)[0, :2].norm())
    if not abs(reached / best - 1) < 1e-3:
        raise ArithmeticError(f"the attack reaches {reached / best:.4f} of the known optimum of a linear model")
    return f"the attack reaches {reached / best:.4f} of a known optimum"


def _nets() -> str:
    from art_lowrank.demo.digits import accuracy, digits
    from art_lowrank.demo.nets import built_in

    found = accuracy(built_in("standard"), digits()[1])
    if found < 0.9:
        raise ArithmeticError(f"the built-in net gets {found:.1%} of the digits right, not 92 %")
    return f"the built-in net gets {found:.1%} of the digits right"


def _few() -> Any:
    from art_lowrank.demo.digits import digits
    from art_lowrank.demo.nets import built_in

    x, y = digits()[1]
    return built_in("standard"), x[:4], y[:4]


def _attack(name: str) -> Callable[[], str]:
    """Runs an attack of the catalog on four digits."""

    def works() -> str:
        from art_lowrank.evaluate.bench import Subject
        from art_lowrank.evaluate.catalog.attacks import attack_entry

        net, x, y = _few()
        (spec,) = specs([name], "attacks")
        moved = attack_entry(spec, "L2", 0.5).prepare(Subject(net, ""))(x, y, 0, 0).x
        if moved.shape != x.shape:
            raise ValueError(f"{name} returned images of shape {tuple(moved.shape)}")
        return f"{spec.name} runs"

    return works


def _imported(module: str, words: str = "imports") -> Callable[[], str]:
    def works() -> str:
        __import__(module)
        return words

    return works


def _art() -> str:
    from art_lowrank.hosts.art_attack import LowRankPGD

    _imported("art.defences.trainer")()
    return f"{LowRankPGD.__name__} and {_attack('art:ProjectedGradientDescent[max_iter=2]')()}"


def _robustbench() -> str:
    from art_lowrank.hosts import robustbench

    robustbench.enable()
    return f"{len(robustbench.available('cifar10', 'L2'))} models for CIFAR-10 in l2"


CHECKS = (
    Check("torch", "torch", "torch", _torch, "pip install torch", needed=True),
    Check("the attack", "torch", "torch", _core, "pip install --force-reinstall art-lowrank", needed=True),
    Check("digits", "sklearn", "scikit-learn", _nets, "pip install scikit-learn", needed=True),
    Check("ART", "art", "adversarial-robustness-toolbox", _art, "pip install adversarial-robustness-toolbox", True),
    Check("ART AutoAttack", "multiprocess", "multiprocess", _imported("multiprocess"), "pip install multiprocess"),
    Check(
        "torchvision", "torchvision", "torchvision", _imported("torchvision.models"), "pip install -U torch torchvision"
    ),
    Check(
        "torchattacks", "torchattacks", "torchattacks", _attack("torchattacks:PGDL2[steps=2]"),
        "pip install torchattacks",
    ),
    Check(
        "AutoAttack", "pyautoattack|autoattack", "pyautoattack", _attack("apgd-ce"),
        "pip install pyautoattack",
    ),
    Check("RobustBench", "robustbench", "robustbench", _robustbench, INSTALL),
    Check("pictures", "matplotlib", "matplotlib", _imported("matplotlib"), "pip install matplotlib"),
    Check("accelerate", "accelerate", "accelerate", _imported("accelerate"), "pip install accelerate"),
    Check("Ray", "ray", "ray", _imported("ray"), "pip install ray"),
)  # fmt: skip
