"""What RobustBench asks for: a model_info JSON with the accuracies, and the adversarial images as one tensor."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from art_lowrank.evaluate.outcome import IMAGES, failed
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.published import Card, published
from art_lowrank.evaluate.rows import Row, rows_of, worst
from art_lowrank.evaluate.run import Evaluation
from art_lowrank.evaluate.spec import parse
from art_lowrank.files import write_whole, writing
from art_lowrank.record import unpack
from art_lowrank.statistics import wilson

FOLDER = "leaderboard"
# The keys of RobustBench's files in their order; what is not known here is null, as there.
KEYS = (
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
    "clean_acc", "reported", "corruptions_acc", "corruptions_acc_3d", "corruptions_mce", "corruptions_mce_3d",
    "autoattack_acc", "footnote",
)  # fmt: skip


class Entry(NamedTuple):
    """One line of a leaderboard: a model under everything that was run with one threat."""

    model: str
    data: str
    threat: str
    clean: Row
    attacks: Sequence[Row]
    alone: bool  # no other radius of this norm

    @property
    def path(self) -> Path:
        """dataset/threat/name, as RobustBench lays its files out."""
        if self.model.startswith("robustbench:"):
            dataset, _, name = self.model.removeprefix("robustbench:").split("/")
        else:
            dataset, name = self.data.removeprefix("robustbench:"), self.model
        norm, radius = self.threat.split()[:2]
        return Path(_plain(dataset)) / norm / (_plain(name) + ("" if self.alone else f"_eps-{_plain(radius)}"))


def write_leaderboard(found: Evaluation, out: str | Path) -> Iterator[Path]:
    """Write the JSON and the .pt file of every model and threat; gives the paths of the JSON files."""
    for entry in entries(found):
        folder = Path(out) / FOLDER / entry.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        images = folder / f"{entry.path.name}.pt"
        with writing(images) as aside:
            torch.save(adversarial(found, entry, Path(out)), aside)
        path = folder / f"{entry.path.name}.json"
        text = json.dumps(info_of(found, entry, images.name), indent=2, ensure_ascii=False)
        write_whole(path, text.encode() + b"\n")
        yield path


def entries(found: Evaluation) -> Iterator[Entry]:
    """Every model, data set and threat whose cells are all done."""
    rows = rows_of(found.cells, found.records)
    for model, data in dict.fromkeys((row.model, row.data) for row in rows):
        some = [row for row in rows if (row.model, row.data) == (model, data) and not row.error]
        if not some or some[0].attack != CLEAN:
            continue
        clean, threats = some[0], list(dict.fromkeys(row.threat for row in some if row.threat))
        norms = Counter(threat.split()[0] for threat in threats)
        for threat in threats:
            attacks = [row for row in some if row.threat == threat and len(row.robust) == len(clean.robust)]
            if attacks:
                yield Entry(model, data, threat, clean, attacks, norms[threat.split()[0]] == 1)


def info_of(found: Evaluation, entry: Entry, images: str) -> dict[str, Any]:
    """RobustBench's object. `autoattack_acc` is AutoAttack's alone, `external` what is left after all attacks."""
    robust = worst(entry.attacks).robust
    of_autoattack = [row for row in entry.attacks if _is_standard(row)]
    known: dict[str, Any] = {
        "name": entry.path.name,
        "dataset": entry.path.parts[0],
        "eps": entry.threat.split()[1],
        "clean_acc": _percent(entry.clean),
        "autoattack_acc": _percent(worst(of_autoattack)) if of_autoattack else None,
        "footnote": footnote(entry),
    }
    info = {key: known.get(key) for key in KEYS}
    card = published(entry.model)
    own = {
        "images": len(robust),
        "clean": wilson(int(entry.clean.robust.sum()), len(robust)),
        "worst_case": wilson(int(robust.sum()), len(robust)),
        "attacks": [
            {"attack": row.attack, "seed": row.seed, "accuracy": wilson(int(row.robust.sum()), len(robust))}
            for row in entry.attacks
        ],
        "published": None if card is None else card._asdict(),
        "comparison": comparison(entry, card),
        "adversarial_images": images,
        "cells": [cell.id for cell in _cells(found, entry)],
        "versions": _versions(found, entry),
    }
    return {**info, "external": _percent(worst(entry.attacks)), "art_lowrank": own}


def footnote(entry: Entry) -> str:
    """What a reader of the two numbers must know."""
    runs = len(entry.attacks)
    remarks = [f"{len(entry.clean.robust)} images", f"external is the worst case over {runs} attack{'s' * (runs > 1)}"]
    return "; ".join([*remarks, *(f"doubtful: {doubt}" for doubt in entry.clean.doubts)]) + "."


def comparison(entry: Entry, card: Card | None) -> str | None:
    """How the worst case stands to the published number, which is of the whole test set, in one sentence."""
    if card is None:
        return None
    same = entry.threat.split()[1] in (card.eps, f"{_radius(card.eps):.6g}")
    if not same:
        return f"published at eps {card.eps}, here {entry.threat}: not to be compared"
    here = wilson(int(worst(entry.attacks).robust.sum()), len(entry.clean.robust))
    where = "inside the interval" if here.low <= card.autoattack / 100 <= here.high else "outside the interval"
    return f"published AutoAttack {card.autoattack} %, here {here.percent()}: {where}"


def adversarial(found: Evaluation, entry: Entry, out: Path) -> Tensor:
    """Every image as the first attack that broke it left it; the others as they are."""
    parts = []
    for start, stop in dict.fromkeys((cell.start, cell.stop) for cell in _cells(found, entry)):
        some = [cell for cell in _cells(found, entry) if (cell.start, cell.stop) == (start, stop)]
        parts.append(_slice(found, entry, some, out))
    return torch.cat(parts)


def _slice(found: Evaluation, entry: Entry, cells: Sequence[Cell], out: Path) -> Tensor:
    cell = cells[0]
    (x, _), _ = found.bench.images(entry.data, cell.start, cell.stop, found.bench.subject(entry.model))
    x, holding = x.clone(), torch.ones(len(x), dtype=torch.bool)
    for cell in cells:
        record = found.records[cell.id]
        robust = torch.tensor(unpack(str(record.values["robust"]), len(x)), dtype=torch.bool)
        if cell.attack != CLEAN and bool((holding & ~robust).any()):
            kept = _images(out / IMAGES / f"{cell.id}.safetensors")
            moved = x.clone()
            moved[kept["rows"]] = kept["x"].to(x)
            x = torch.where((holding & ~robust).view(-1, 1, 1, 1), moved, x)
        holding &= robust
    return x


def _images(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}), so there are no images for the leaderboard; evaluate into another "
            "folder without --no-images"
        ) from error


def _cells(found: Evaluation, entry: Entry) -> list[Cell]:
    """The cells behind an entry, the clean one of every slice before its attacks."""
    attacks = {row.attack for row in entry.attacks} | {CLEAN}
    mine = [cell for cell in found.cells if (cell.model, cell.data) == (entry.model, entry.data)]
    return [cell for cell in mine if cell.attack in attacks and not failed(found.records[cell.id])]


def _versions(found: Evaluation, entry: Entry) -> dict[str, str]:
    return {name: version for cell in _cells(found, entry) for name, version in found.records[cell.id].versions.items()}


def _is_standard(row: Row) -> bool:
    """AutoAttack whole and alone, in the version leaderboards are made with."""
    spec = parse(row.attack)
    return spec.name == "autoattack" and not {"members", "version"} & spec.options.keys() and not row.after


def _percent(row: Row) -> str:
    return f"{100 * row.robust.mean():.2f}"


def _radius(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")
