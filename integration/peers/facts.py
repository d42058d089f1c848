"""What the tables need to know of records, without any of the peers installed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from art_lowrank import record
from art_lowrank.record import JSON, Record
from art_lowrank.statistics import Interval

ROBUST_NETS = (
    "cifar10_resnet4b_linf_adv",
    "cifar10_cnn_l2_certified",
    "cifar10_resnet3b_linf_adv",
    "cifar10_vit2_linf_adv",
)
SOURCE = "art-lowrank-attack-source"
RESNET, SQUEEZENET = "cifar10_resnet20_standard", "imagenet_squeezenet10"
BARE, ART = "lowrank_pgd", "ART ProjectedGradientDescent"
LIMITS: dict[str, tuple[float | None, float | None]] = {  # what is aimed at: median, upper end
    RESNET: (0.01, 0.015),
    SQUEEZENET: (0.02, 0.03),
    "published update": (0.5, None),
    BARE: (None, 1.1),
    ART: (1.0, None),
}
WORDS = {True: "met", False: "MISSED", None: "NOT MEASURED"}


def source() -> str:
    """Digest of our attack's code, since results of ours change with it and its version number does not."""
    files = sorted((Path(record.__file__).parent / "attack").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def number(value: JSON) -> float:
    """A number out of a record."""
    if not isinstance(value, int | float):
        raise ValueError(f"a record holds {value!r} where a number is due")
    return float(value)


def label(attack: str, settings: Mapping[str, object]) -> str:
    """What tables call an attack: its name, rank and steps."""
    rank = f" r={settings['rank']}" if "rank" in settings else ""
    return attack + rank + (f" N={settings['steps']}" if "steps" in settings else "")


def ratio_of(record: Record) -> Interval:
    return Interval(*(number(record.values[end]) for end in ("median_ratio", "low", "high")))


def aimed(record: Record) -> tuple[list[tuple[str, float]], bool]:
    """The limits a ratio of times should keep, by name, and whether it does."""
    ratio, against = ratio_of(record), str(record.settings["against"])
    limits = LIMITS[record.model if against == "model" else against]
    named = zip(("median", "upper end"), (ratio.value, ratio.high), limits, strict=True)
    kept = [(name, limit, value <= limit) for name, value, limit in named if limit is not None]
    return [(name, limit) for name, limit, _ in kept], all(met for *_, met in kept)


def told(record: Record) -> str:
    """A record of a ratio of times in one line, with what was aimed at."""
    settings, ratio = record.settings, ratio_of(record)
    against = str(settings["against"])
    what = "update" if record.kind == "update-cost" else "LowRankPGD.generate"
    aims, met = aimed(record)
    wanted = ", ".join(f"{name} <= {limit:g}" for name, limit in aims)
    return (
        f"{what} against {against}, {record.model}, {record.data}, rank {settings['rank']}: "
        f"{ratio.value:.4g} [{ratio.low:.4g}, {ratio.high:.4g}] ({WORDS[met]}: {wanted}; "
        f"{settings['repeats']} interleaved repeats)"
    )
