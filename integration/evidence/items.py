"""The eight items by the names of the command line, and who answers which kind of question."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import adversarial_training
import condition_bound
import lora_table
import low_rank_nets
import memory
import peer_table
import perturbation_spectra
import rank_curves
import strength_cells
import trainings
import weight_ranks
from study import Answer, Missing, Notes, Scale

import art_lowrank
from art_lowrank.record import versions

ITEMS: dict[str, ModuleType] = {
    "spectra": perturbation_spectra,
    "lora": lora_table,
    "curves": rank_curves,
    "training": adversarial_training,
    "low-rank": low_rank_nets,
    "weights": weight_ranks,
    "bound": condition_bound,
    "peers": peer_table,
}
ANSWERS: dict[str, Answer] = {
    perturbation_spectra.KIND: perturbation_spectra.answer,
    rank_curves.KIND: rank_curves.answer,
    rank_curves.RADIUS: rank_curves.answer,
    rank_curves.LENGTH: rank_curves.answer_length,
    strength_cells.KIND: strength_cells.answer,
    memory.KIND: memory.answer,
    trainings.KIND: trainings.answer,
    weight_ranks.KIND: weight_ranks.answer,
    condition_bound.KIND: condition_bound.answer,
}
PACKAGES = ("torch", "adversarial-robustness-toolbox", "torchattacks", "foolbox", "adv-lib", "pyautoattack")


def told(item: ModuleType, notes: Notes, scale: Scale) -> list[str]:
    """Title, claim, what held, and the tables."""
    lines = [f"### {item.TITLE}", "", f"Claim: {item.CLAIM}", ""]
    try:
        lines += [f"- {line}" for line in item.verdict(notes, scale)]
    except Missing as missing:
        lines += [f"Not measured: {missing}"]
    return [*lines, "", *item.tables(notes, scale)]


def digest(*folders: str) -> str:
    """Of the package's code in these folders."""
    root = Path(art_lowrank.__file__).parent
    files = sorted(file for folder in folders for file in (root / folder).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


SOURCES = {"art-lowrank-attack-source": digest("attack"), "art-lowrank-weights-source": digest("weights", "training")}


def sources() -> dict[str, str]:
    """Versions, and digests of the code as it was when the program began."""
    return {**versions(*PACKAGES), **SOURCES}
