"""What is to be evaluated: models x data x attacks x seeds, from flags or a TOML file, as cells with hashed ids."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from art_lowrank.evaluate.spec import Spec, nearest, parse, value_of
from art_lowrank.evaluate.threat import threat_of
from art_lowrank.record import JSON

FORMAT = 1  # of a cell's identity; another one makes other ids, so that old cells are not taken for done
CLEAN = "clean"  # the attack that does nothing; every other one waits for it
ONE = {"model": "models", "attack": "attacks", "seed": "seeds"}  # as the flags are called
DIGITS = ("digits:standard", "digits:adversarial", "digits:low-rank")


def usual_attacks(norm: str, eps: float) -> tuple[str, ...]:
    """What is run where nothing is asked for: ours at three ranks, the published method, ART's PGD, the rank curve."""
    pgd = f"art:ProjectedGradientDescent[max_iter=20,eps_step={eps / 5:.6g}]"
    if norm == "L1":
        return (pgd,)
    ours = [f"lowrank-pgd[rank={rank}]" for rank in (1, 2, "full")]
    if norm == "L2":
        ours.insert(2, "lora-pgd[rank=2]")
    if norm in ("nuc", "group-nuc"):
        return tuple(ours) if norm == "nuc" else ("lowrank-pgd[rank=full]",)
    return (*ours, pgd, "rank-curve")


@dataclass(frozen=True)
class Plan:
    """Everything that is asked for; the same names as the flags and as the keys of a TOML file."""

    models: Sequence[str] = DIGITS
    attacks: Sequence[str] | None = None  # None: `usual_attacks`
    data: Sequence[str] = ("digits",)
    norm: str = "2"
    eps: float = 0.5
    images: int | None = None
    slice: int = 1000
    seeds: Sequence[int] = (0,)
    survivors: bool = False
    keep_images: bool = True
    batch_size: int = 128
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = False
    data_dir: str = "data"
    model_dir: str = "models"

    def __post_init__(self) -> None:
        eps = value_of(self.eps, "the plan") if isinstance(self.eps, str) else self.eps
        threat = threat_of(self.norm, eps, "the plan")
        object.__setattr__(self, "norm", threat.norm)
        object.__setattr__(self, "eps", threat.eps)
        if self.attacks is None:
            object.__setattr__(self, "attacks", usual_attacks(self.norm, self.eps))
        for name in ("models", "attacks", "data", "seeds"):
            object.__setattr__(self, name, _several(name, getattr(self, name)))
        if self.precision not in ("float32", "bf16"):
            raise ValueError(
                f"precision is {self.precision!r}; give float32 or bf16 (fp16: lowrank-pgd[precision=fp16])"
            )
        self._check()

    def _check(self) -> None:
        """Values of the kinds they should be."""
        for name in ("device", "data_dir", "model_dir"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a text")
        for name in ("models", "attacks", "data"):
            if not all(isinstance(item, str) for item in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give texts")
        numbers = [("images", self.images, 1), ("slice", self.slice, 1), ("batch_size", self.batch_size, 1)]
        for name, value, least in [*numbers, *(("seeds", seed, 0) for seed in self.seeds)]:
            if name == "images" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; give a whole number >= {least}")
        for name in ("survivors", "keep_images", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give true or false")


@dataclass(frozen=True)
class Cell:
    """One piece of work: a model, a slice of the images, an attack and its seed."""

    model: str
    data: str
    start: int
    stop: int
    attack: str
    seed: int
    identity: Mapping[str, JSON]  # what the five mean: options, hashes of files, the threat, what ran before
    needs: tuple[str, ...] = ()  # ids of the cells whose outcome this one starts from; the first is the clean one

    @cached_property
    def id(self) -> str:
        """12 hex digits of a hash of what was asked; nothing that came out enters, nor how fast or where."""
        asked = {"format": FORMAT, "start": self.start, "stop": self.stop, "seed": self.seed, **self.identity}
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:12]

    @property
    def images(self) -> str:
        """The slice by name."""
        return f"{self.data}[{self.start}:{self.stop}]"


def read_plan(path: str | Path, given: Mapping[str, Any]) -> Plan:
    """A TOML file's plan; what is `given` beside it overrules it."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        hint = ' (fractions are texts: eps = "8/255")' if "newline" in str(error) else ""
        raise ValueError(f"{path} cannot be read as TOML: {error}{hint}") from error
    return plan_of({**found, **given}, path)


def plan_of(found: Mapping[str, Any], source: object = "the plan") -> Plan:
    """A plan from names and values."""
    known = [field.name for field in fields(Plan)]
    found = {ONE.get(key, key): value for key, value in found.items()}
    for key in found:
        if key not in known:
            raise ValueError(f"{source}: {nearest(key, known, 'key')}")
    return Plan(**found)


def slices(n: int, images: int | None, size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of every slice of the first images."""
    last = n if images is None else min(n, images)
    for start in range(0, last, size):
        yield start, min(start + size, last)


def cells_of(
    models: Mapping[str, JSON],
    data: Mapping[str, tuple[JSON, int]],
    attacks: Mapping[str, JSON],
    plan: Plan,
) -> list[Cell]:
    """Every cell in the order it is run; the mappings give, by what was typed, what it means (and how many images)."""
    cells = []
    for model, its_model in models.items():
        for images, (its_images, n) in data.items():
            for start, stop in slices(n, plan.images, plan.slice):
                common: dict[str, JSON] = {"model": its_model, "data": its_images}
                clean = Cell(model, images, start, stop, CLEAN, 0, {**common, "attack": CLEAN})
                cells.append(clean)
                for seed in plan.seeds:
                    cells += _attacked(clean, common, attacks, seed, plan.survivors)
    return cells


def _attacked(
    clean: Cell, common: Mapping[str, JSON], attacks: Mapping[str, JSON], seed: int, survivors: bool
) -> Iterator[Cell]:
    before: list[Cell] = []
    for attack, its_attack in attacks.items():
        same = [cell for cell in before if _threat(cell.identity["attack"]) == _threat(its_attack)]
        earlier = [cell.id for cell in same] if survivors else []  # what another ball breaks may hold in this one
        identity = {**common, "attack": its_attack, "after": earlier}
        cell = replace(clean, attack=attack, seed=seed, identity=identity, needs=(clean.id, *earlier))
        before.append(cell)
        yield cell


def _threat(attack: JSON) -> JSON:
    return attack.get("threat") if isinstance(attack, Mapping) else None


def specs(texts: Sequence[str], kind: str) -> list[Spec]:
    """Every text parsed; one that means the same as another counts once."""
    found: dict[str, Spec] = {}
    for text in texts:
        try:
            spec = parse(text)
        except ValueError as error:
            raise ValueError(f"{kind}: {error}") from None
        found.setdefault(spec.identity, spec)
    return list(found.values())


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """One or several values as a tuple, each once."""
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not found:
        raise ValueError(f"{name} is empty; give at least one")
    if any(isinstance(item, list | dict) for item in found):
        raise ValueError(f"{name} is {value!r}; give single values")
    return tuple(dict.fromkeys(found))
