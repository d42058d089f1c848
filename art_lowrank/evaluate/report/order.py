"""Which of two attacks ought to break more: the same one with more rank, steps or radius, or a stronger kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from art_lowrank.evaluate.rows import Row
from art_lowrank.evaluate.spec import Spec, parse

STEPS = ("steps", "max_iter", "n_iter")
RADII = ("eps", "epsilon")
OURS = ("lowrank-pgd", "lora-pgd")
# parts of the names of attacks that take one step, or none along a gradient: they are expected to be weak
SIMPLE = (
    "fgsm", "fastgradient", "vanila", "noise", "square", "pixel", "pixle", "onepixel", "threshold", "zoo",
    "hopskipjump", "boundary", "geoda", "signopt", "simba", "spsa", "spatial",
)  # fmt: skip
ITERATED = ("ifgsm", "bim", "pgd")  # although another name is part of theirs
STRONGEST = ("autoattack", "robustbench:benchmark", "torchattacks:autoattack", "art:autoattack")
STEP_SIZES = ("eps_step", "alpha")  # they go with eps and steps
FEW = 3  # steps, of an attack that is not ours: hardly more than one
ONE_STEP, LOW_RANK, ITERATIVE, ENSEMBLE = range(4)  # how strong a kind of attack is


@dataclass(frozen=True)
class Variant:
    """An attack taken apart: what it is, and what makes it stronger the more of it there is."""

    family: str  # all but rank, steps and eps
    rank: float | None  # infinite where it is full, None where the attack has none or does not say
    steps: float | None
    eps: float
    level: int

    def weaker_in(self, other: Variant) -> str:
        """The one of rank, steps and eps in which this is below the other, or "" if they cannot be compared."""
        if self.family != other.family:
            return ""
        differ = [name for name in ("rank", "steps", "eps") if getattr(self, name) != getattr(other, name)]
        if len(differ) != 1:
            return ""
        mine, its = getattr(self, differ[0]), getattr(other, differ[0])
        return differ[0] if mine is not None and its is not None and mine < its else ""


def variant_of(row: Row) -> Variant:
    """What a row's attack is."""
    norm, _, rest = row.threat.partition(" ")
    return _variant(row.attack, norm, rest.partition(" tile")[0], row.seed)


@cache
def _variant(attack: str, norm: str, radius: str, seed: int | None) -> Variant:
    spec = spec_of(attack)
    options = {name: value for name, value in spec.options.items() if name not in (*RADII, *STEP_SIZES)}
    rank = rank_of(options.pop("rank", None))
    steps = next((options.pop(name) for name in STEPS if name in options), None)
    family = json.dumps([spec.name, spec.words, options, norm, seed], sort_keys=True, default=str)
    taken = float(steps) if isinstance(steps, int | float) else None
    return Variant(family, rank, taken, eps_of(radius), _level(spec, rank, taken))


@cache
def spec_of(attack: str) -> Spec:
    """The attack taken apart; a name that is none is one without options."""
    try:
        return parse(attack)
    except ValueError:
        return Spec(attack)


def rank_of(value: object) -> float | None:
    """A rank that can be compared with others: fractions stand for different numbers in different images."""
    if value == "full":
        return float("inf")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else None


def eps_of(text: str) -> float:
    """`0.5` and `8/255` as numbers."""
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return float("nan")


def _level(spec: Spec, rank: float | None, steps: float | None) -> int:
    name = spec.name.rpartition(":")[2].lower()
    if spec.name in OURS:
        return ITERATIVE if rank == float("inf") else LOW_RANK
    if spec.name in ("rank-curve", "eps-curve"):
        whole = "ranks" not in spec.options if spec.name == "rank-curve" else rank == float("inf")
        return ITERATIVE if whole else LOW_RANK
    if spec.name.lower() in STRONGEST and not {"members", "version"} & spec.options.keys():
        return ENSEMBLE
    simple = name == "gn" or any(part in name for part in SIMPLE)
    simple = simple and not any(part in name for part in ITERATED)
    return ONE_STEP if simple or (steps is not None and steps <= FEW) else ITERATIVE
