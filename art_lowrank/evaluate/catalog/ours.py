"""The package's own attacks as entries of the catalog."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from torch import Tensor

from art_lowrank.attack import Attacked, lowrank_pgd
from art_lowrank.attack.options import Options
from art_lowrank.evaluate.bench import Attack, AttackEntry, Found, Subject
from art_lowrank.evaluate.spec import Spec, check_known
from art_lowrank.evaluate.threat import Threat, threat_of

NOT_HERE = ("targeted", "seed", "clip", "mask", "first_step")  # no place for them in an evaluation
KNOWN = tuple(field.name for field in fields(Options) if field.name not in NOT_HERE)
METHOD = {"lowrank-pgd": "power", "lora-pgd": "paper"}
NUMBERS: dict[str, float | str] = {"L2": 2, "Linf": float("inf"), "nuc": "nuc", "group-nuc": "group-nuc"}


def ours_entry(spec: Spec, norm: str, eps: float) -> AttackEntry:
    """`lowrank-pgd[rank=3,steps=20]`, `lora-pgd[rank=3]`; a word without a value is the method."""
    check_known(spec.options, KNOWN, spec)
    given: dict[str, Any] = dict(spec.options)
    method = method_of(spec, given.pop("method", None))
    threat = _threat(spec, given.pop("norm", norm), given.pop("eps", eps), given.get("tile"))
    options = {"early_stop": method != "paper" and not given.get("exact_rank"), **given, "method": method}
    checked = check(spec, threat, options)

    def prepare(subject: Subject) -> Attack:
        def run(x: Tensor, y: Tensor, seed: int, place: int) -> Found:
            with dead_are_recorded():
                attacked = lowrank_pgd(
                    subject.model, x, y, eps=threat.eps, norm=NUMBERS[threat.norm], seed=seed, **options
                )
            return found_of(attacked, checked)

        return run

    typed = [part for part in spec.parts if "=" in part and not part.startswith("method=")]
    meaning: dict[str, Any] = {"attack": "lowrank_pgd", "threat": threat.meaning(), "options": options}
    steps = checked.steps * checked.restarts * (2 if checked.thorough else 1)
    return AttackEntry(Spec(spec.name, parts=(method, *typed)).text, meaning, threat, max(1, steps), (), prepare)


@contextmanager
def dead_are_recorded() -> Iterator[None]:
    """Without the warning about images that gave no gradient: they are in the record."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ images were not broken, but")
        yield


def method_of(spec: Spec, given: Any) -> str:
    """The method, from a word or `method=`; the name's own without either."""
    named = [*spec.words, *([str(given)] if given is not None else [])]
    if len(named) > 1:
        raise ValueError(f"{spec} names {len(named)} methods; give one")
    return named[0] if named else METHOD[spec.name]


def check(spec: Spec, threat: Threat, options: Mapping[str, Any]) -> Options:
    """What the core has to say about the options, with the spec in front."""
    if threat.norm not in NUMBERS:
        raise ValueError(f"{spec}: low-rank attacks know L2, Linf, nuc and group-nuc, not {threat.norm}")
    try:
        return Options(eps=threat.eps, norm=NUMBERS[threat.norm], **options)
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from None


def found_of(attacked: Attacked, options: Options) -> Found:
    """What is kept of a result: factors only where they are smaller than the images."""
    notes = {"dead": attacked.dead, "rank_held": attacked.rank_held, "margin": attacked.margin}
    factors = attacked.factors if attacked.factors.nbytes < attacked.x.nbytes else None
    return Found(attacked.x, factors, notes, {"method": attacked.attack, "loss": attacked.loss})


def _threat(spec: Spec, norm: Any, eps: Any, tile: Any) -> Threat:
    found = threat_of(norm, eps, spec)
    return Threat(found.norm, found.eps, tile) if isinstance(tile, int) else found
