"""The model card: what was trained, what it stores, and what it was seen to withstand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from art_lowrank.files import write_whole
from art_lowrank.statistics import Interval, wilson
from art_lowrank.training.measure import Right
from art_lowrank.weights import low_rank_layers, stored


def card_of(model: nn.Module, recipe: dict[str, Any], results: dict[str, Right], versions: dict[str, str]) -> Card:
    """Everything the card says, as plain values. `results` are per attack, on the same test images."""
    counts = stored(model)
    layers = {
        name: {"rank": layer.rank, "of": min(len(layer.weight_u), len(layer.weight_v)), "cond": round(layer.cond(), 6)}
        for name, layer in low_rank_layers(model).items()
    }
    first = next(iter(results.values()))
    accuracies = {"clean": first.clean} | {name: r.robust for name, r in results.items() if r.robust is not None}
    return {
        "recipe": recipe,
        "parameters": {"stored": counts.now, "dense": counts.dense, "share": round(counts.share, 6)},
        "layers": layers,
        "images": len(first.clean),
        "accuracy": {name: list(wilson(int(right.sum()), len(right))) for name, right in accuracies.items()},
        "versions": versions,
    }


Card = dict[str, Any]


def write(card: Card, folder: Path) -> None:
    """card.json and card.md."""
    write_whole(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    write_whole(folder / "card.md", markdown(card).encode())


def markdown(card: Card) -> str:
    """The card for people."""
    parameters, lines = card["parameters"], []
    lines += ["# Model card", "", "| accuracy | 95 % interval |", "|---|---|"]
    lines += [f"| {name} | {Interval(*interval).percent()} |" for name, interval in card["accuracy"].items()]
    lines += [
        "",
        f"On {card['images']} test images. Accuracy under an attack is an upper bound of robustness: "
        "run AutoAttack before quoting it.",
        "",
        f"{parameters['stored']:,} of {parameters['dense']:,} parameters are stored "
        f"({100 * parameters['share']:.1f} %).",
    ]
    if card["layers"]:
        lines += ["", "| layer | rank | of | condition number |", "|---|---:|---:|---:|"]
        lines += [f"| {name} | {x['rank']} | {x['of']} | {x['cond']:.4f} |" for name, x in card["layers"].items()]
    lines += ["", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in card["recipe"].items()]
    lines += [f"| {name} | {version} |" for name, version in card["versions"].items()]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
