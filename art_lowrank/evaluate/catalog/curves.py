"""Rank and radius curves as attacks: one nested run; its last stage is judged, the stage that broke an image kept."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from art_lowrank.attack import Curve, eps_curve, rank_curve
from art_lowrank.attack.curve import radii_of
from art_lowrank.evaluate.bench import Attack, AttackEntry, Found, Subject
from art_lowrank.evaluate.catalog.ours import NUMBERS, check, dead_are_recorded
from art_lowrank.evaluate.spec import Spec, check_known
from art_lowrank.evaluate.threat import Threat, threat_of

COMMON = ("norm", "eps", "steps", "loss", "exact_rank", "precision")
KNOWN = {"rank-curve": (*COMMON, "ranks"), "eps-curve": (*COMMON, "rank")}


def curve_entry(spec: Spec, norm: str, eps: float) -> AttackEntry:
    """`rank-curve[eps=0.5,steps=20]`, `eps-curve[eps=[0.25,0.5,1],rank=2]`; the threat is the curve's last point."""
    check_known(spec.options, KNOWN[spec.name], spec)
    if spec.words:
        raise ValueError(f"{spec}: {spec.words[0]!r} has no value")
    given: dict[str, Any] = dict(spec.options)
    threat = threat_of(given.pop("norm", norm), _last(spec, given.get("eps", eps)), spec)
    ranks = given.pop("ranks", None)
    radii = given.pop("eps", None)
    checked = check(spec, threat, given)

    def prepare(subject: Subject) -> Attack:
        def run(x: Tensor, y: Tensor, seed: int, place: int) -> Found:
            with dead_are_recorded():
                if spec.name == "rank-curve":
                    curve = rank_curve(
                        subject.model, x, y, eps=threat.eps, ranks=ranks, seed=seed, **_all(threat, given)
                    )
                else:
                    curve = eps_curve(subject.model, x, y, eps=radii, seed=seed, **_all(threat, given))
            return _found(curve)

        return run

    meaning: dict[str, Any] = {"attack": spec.name, "spec": spec.identity, "threat": threat.meaning()}
    return AttackEntry(spec.text, meaning, threat, 2 * checked.steps, (), prepare)


def _last(spec: Spec, eps: Any) -> Any:
    """The largest radius."""
    if spec.name == "rank-curve":
        return eps
    try:
        return radii_of(eps)[-1]
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from None


def _all(threat: Threat, given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "norm": NUMBERS[threat.norm]}


def _found(curve: Curve) -> Found:
    facts: dict[str, Any] = {"method": curve.attack, "along": curve.along, "values": list(curve.values)}
    return Found(curve.x, None, {"dead": curve.dead, "breaking": curve.breaking}, facts)
