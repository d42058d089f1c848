"""Three small nets for the digits, trained and shipped; `python -m art_lowrank.demo.nets FOLDER` trains them again."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from art_lowrank.demo.digits import small_net
from art_lowrank.training.checkpoint import BEST, load_weights, read_weights
from art_lowrank.training.run import Recipe
from art_lowrank.training.run import main as train
from art_lowrank.weights import factorize, ranks_of

FOLDER = Path(__file__).parent / "trained"
ROBUST: dict[str, Any] = {"objective": "madry", "eps": 0.5, "steps": 5, "lr": 0.006}
ASKED: dict[str, dict[str, Any]] = {
    "standard": {"method": "dense", "epochs": 30},
    "adversarial": {"method": "dense", "epochs": 60, **ROBUST},
    "low-rank": {"method": "condlr", "keep": 0.5, "epochs": 80, **ROBUST},
}
RECIPES = {name: Recipe(model="art_lowrank.demo.digits:small_net", **asked) for name, asked in ASKED.items()}


def built_in(name: str) -> nn.Module:
    """The net of that name with its weights, in evaluation mode."""
    path = FOLDER / f"{name}.safetensors"
    weights, net = read_weights(path), small_net()
    if ranks := ranks_of(weights):
        factorize(net, ranks=ranks)
    load_weights(net, weights, path)
    return net.eval()


def command(name: str) -> str:
    """The command line that trains the net."""
    default = Recipe()
    given = {field.name: getattr(RECIPES[name], field.name) for field in fields(Recipe)}
    flags = [f"--{key.replace('_', '-')} {value}" for key, value in given.items() if value != getattr(default, key)]
    return " ".join(["art-lowrank train", *flags])


def notes(name: str) -> dict[str, Any]:
    """What the file says of itself: the recipe, the epoch, its accuracy on validation images."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["notes"])
    return found


def main(out: Path) -> None:
    """Train all three; the best weights of each are what is shipped."""
    for name, recipe in RECIPES.items():
        print(command(name))
        train(recipe, out / name, resume=False, verbose=False)
        shutil.copyfile(out / name / BEST, out / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
