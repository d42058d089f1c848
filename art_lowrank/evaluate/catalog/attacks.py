"""Attacks by name: ours, any of ART's and torchattacks', AutoAttack and its members, RobustBench's benchmark."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from art_lowrank.evaluate.bench import Attack, AttackEntry, Found, Subject
from art_lowrank.evaluate.catalog.curves import curve_entry
from art_lowrank.evaluate.catalog.ours import ours_entry
from art_lowrank.evaluate.catalog.precision import halved, split
from art_lowrank.evaluate.reproducible import reproducible
from art_lowrank.evaluate.spec import Spec, check_known, nearest
from art_lowrank.evaluate.threat import Threat, norm_name, threat_of

Host = Callable[[Tensor, Tensor, int], Tensor]  # images, labels and a seed, for those that take one
AUTOATTACK = ("autoattack", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
NAMES = ("lowrank-pgd", "lora-pgd", "rank-curve", "eps-curve", *AUTOATTACK, "robustbench:benchmark")
UNKNOWN_STEPS = 100  # gradients of an attack that does not say


def attack_entry(spec: Spec, norm: str, eps: float) -> AttackEntry:
    """The attack of that name; norm and eps count where the spec does not give its own."""
    if spec.name in ("lowrank-pgd", "lora-pgd"):
        return ours_entry(spec, norm, eps)
    if spec.name in ("rank-curve", "eps-curve"):
        return curve_entry(spec, norm, eps)
    plain, half = split(spec)
    entry = _foreign_entry(plain, norm, eps)
    return halved(entry, spec) if half else entry


def _foreign_entry(spec: Spec, norm: str, eps: float) -> AttackEntry:
    """One of somebody else's."""
    host, colon, name = spec.name.partition(":")
    if spec.words:
        raise ValueError(f"{spec}: {spec.words[0]!r} has no value; write {spec.words[0]}=...")
    if spec.name in AUTOATTACK:
        return _autoattack(spec, norm, eps)
    if spec.name == "robustbench:benchmark":
        return _benchmark(spec, norm, eps)
    if colon and host in ("art", "torchattacks"):
        return _hosted(spec, host, name, norm, eps)
    known = [*NAMES, "art:ProjectedGradientDescent", "torchattacks:PGDL2"]
    raise ValueError(f"{nearest(spec.name, known, 'attack')} (others: art:CLASS, torchattacks:CLASS)")


def _hosted(spec: Spec, host: str, name: str, norm: str, eps: float) -> AttackEntry:
    """A class of ART or torchattacks, with the threat handed to the parameters it has for it."""
    if host == "art":
        from art_lowrank.hosts import art_named as named
    else:
        from art_lowrank.hosts import torchattacks_named as named  # type: ignore[no-redef]
    if name not in named.names():
        raise ValueError(f"{spec}: {nearest(name, named.names(), f'attack of {host}')}")
    known = named.parameters(name)
    check_known(spec.options, [*known, "norm", "eps"], spec)
    if spec.options.get("targeted"):
        raise ValueError(f"{spec}: evaluations are untargeted; leave targeted out")
    options, threat = _with_threat(spec, known, norm, eps, named)
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in options]
    if missing:
        raise ValueError(f"{spec}: {name} needs {missing[0]}=...")

    def prepare(subject: Subject) -> Attack:
        attack = named.attack_of(name, options, subject.model)
        return foreign(lambda x, y, seed: attack(x, y))

    distribution = "adversarial-robustness-toolbox" if host == "art" else "torchattacks"
    return AttackEntry(spec.text, meaning(spec, threat), threat, _steps({**known, **options}), (distribution,), prepare)


def _with_threat(
    spec: Spec, known: Mapping[str, Any], norm: str, eps: float, named: Any
) -> tuple[dict[str, Any], Threat]:
    """The class's options and its threat. A class of one norm has that norm; norm and eps go where it takes them."""
    options = dict(spec.options)
    own = named.norms(spec.name.partition(":")[2]) if hasattr(named, "norms") else []
    asked = options.pop("norm", None)
    chosen = norm_name(asked if asked is not None else norm, spec)
    if len(own) == 1 and own[0] != chosen:
        if asked is not None or "eps" not in options:
            raise ValueError(f"{spec} measures {own[0]}, not {chosen}; give its own radius, {spec.name}[eps=...]")
        chosen = own[0]
    threat = threat_of(chosen, options.pop("eps", eps), spec)
    if "norm" in known:
        names = getattr(named, "NORMS", None)
        if names is not None and chosen not in names:
            raise ValueError(f"{spec}: it takes the norms {', '.join(names)}, not {chosen}")
        options["norm"] = chosen if names is None else names[chosen]
    if "eps" in known:
        options["eps"] = threat.eps
    return options, threat


def _autoattack(spec: Spec, norm: str, eps: float) -> AttackEntry:
    """AutoAttack as a whole or one member of it."""
    from art_lowrank.hosts import autoattack

    whole = spec.name == "autoattack"
    check_known(spec.options, ("norm", "eps", "version", "members") if whole else ("norm", "eps", "version"), spec)
    threat = threat_of(spec.options.get("norm", norm), spec.options.get("eps", eps), spec)
    if threat.norm not in ("L1", "L2", "Linf"):
        raise ValueError(f"{spec}: AutoAttack knows L1, L2 and Linf, not {threat.norm}")
    version = str(spec.options.get("version", "standard"))
    if version not in autoattack.VERSIONS:
        raise ValueError(f"{spec}: {nearest(version, autoattack.VERSIONS, 'version')}")
    members = spec.options.get("members", list(autoattack.VERSIONS[version])) if whole else [spec.name]
    members = [str(member) for member in members] if isinstance(members, list) else str(members).split("+")
    for member in members:
        if member not in autoattack.MEMBERS:
            raise ValueError(f"{spec}: {nearest(member, autoattack.MEMBERS, 'member')}")
    autoattack.backend()  # a missing package is said now

    def attacked(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        return autoattack.standard(
            model, x, y, norm=threat.norm, eps=threat.eps, version=version, members=members,
            seed=seed, batch_size=len(x),
        )  # fmt: skip

    def prepare(subject: Subject) -> Attack:
        return foreign(partial(attacked, subject.model))

    return AttackEntry(spec.text, meaning(spec, threat), threat, 600 * len(members), (autoattack.package(),), prepare)


def _benchmark(spec: Spec, norm: str, eps: float) -> AttackEntry:
    """RobustBench's own benchmark function on the slice's images."""
    from art_lowrank.hosts import robustbench

    check_known(spec.options, ("norm", "eps", "dataset"), spec)
    threat = threat_of(spec.options.get("norm", norm), spec.options.get("eps", eps), spec)
    if threat.norm not in ("L2", "Linf"):
        raise ValueError(f"{spec}: RobustBench knows L2 and Linf, not {threat.norm}")
    dataset = str(spec.options.get("dataset", "cifar10"))
    robustbench.enable()

    def attacked(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        return robustbench.attacked(
            model, x, y, dataset=dataset, threat_model=threat.norm, eps=threat.eps, batch_size=len(x), seed=seed
        )

    def prepare(subject: Subject) -> Attack:
        return foreign(partial(attacked, subject.model))

    return AttackEntry(spec.text, meaning(spec, threat), threat, 2400, ("robustbench",), prepare)


def foreign(attack: Host) -> Attack:
    """An attack that draws from the global random states, made to follow from seed and place."""

    def run(x: Tensor, y: Tensor, seed: int, place: int) -> Found:
        with reproducible(seed, place), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is the matter shows in the outcome
            return Found(attack(x, y, seed))

    return run


def meaning(spec: Spec, threat: Threat) -> Any:
    """What goes into a cell's identity."""
    return {"spec": spec.identity, "threat": threat.meaning()}


def _steps(options: Mapping[str, Any]) -> int:
    found = [options[name] for name in ("steps", "max_iter", "n_iter") if isinstance(options.get(name), int)]
    return max(1, found[0]) if found else UNKNOWN_STEPS
