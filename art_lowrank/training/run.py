"""`art-lowrank train`: from a recipe to a folder with checkpoints, weights and a model card."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_lowrank.attack.oracle import evaluating
from art_lowrank.record import versions
from art_lowrank.statistics import Interval
from art_lowrank.training import card
from art_lowrank.training.adversaries import Adversary, Pgd, SingleStep
from art_lowrank.training.checkpoint import BEST, LAST, Folder, load_weights, ranks_before, read_weights, reason
from art_lowrank.training.data import Data, load
from art_lowrank.training.distributed import device_of, leaving, precision_here, team_here
from art_lowrank.training.learner import Epoch, Learner
from art_lowrank.training.loop import Course, best_of, shuffled, train
from art_lowrank.training.measure import Right, fingerprint, measured
from art_lowrank.training.methods import DENSE, attach, options_of
from art_lowrank.training.objectives import Objective
from art_lowrank.training.precision import check_precision, precision_of
from art_lowrank.training.team import ALONE, Team, check_same, first, in_turn
from art_lowrank.training.warm_loop import check_warm, remembering, watch_of
from art_lowrank.training.warm_start import WarmStart
from art_lowrank.weights import factorize, ranks_of
from art_lowrank.weights.convert import candidates

LOOK, TESTED = 512, 1000  # images that decide about ranks, images the card is measured on


@dataclass(frozen=True)
class Recipe:
    """What `art-lowrank train` is asked for; the same names as its flags and as the keys of a TOML file."""

    data: str = "digits"
    data_folder: str = "data"
    model: str = "small"
    weights: str | None = None
    method: str = "condlr"
    keep: float = 0.2
    max_cond: float = 1.5
    tighten: float = 0.0
    objective: str = "standard"
    eps: float = 0.5
    norm: str = "2"
    steps: int = 5
    rank: str = "full"
    beta: float = 6.0
    warm_start: bool = False
    optimizer: str = "adamw"
    lr: float = 3e-3
    epochs: int = 20
    batch_size: int = 128
    patience: int | None = None
    seed: int = 0
    precision: str = "float32"

    def asked(self) -> dict[str, Any]:
        """What a checkpoint belongs to; the usual precision goes without saying."""
        found = asdict(self)
        return found if self.precision != "float32" else {name: found[name] for name in found if name != "precision"}


def main(recipe: Recipe, out: Path, resume: bool, verbose: bool, say: Callable[[str], Any] = print) -> None:
    """Train, or go on; then measure the best weights and write the card. Processes launched together share the work."""
    recipe = replace(recipe, precision=precision_here(recipe.precision))
    check(recipe)
    with leaving(team_here()) as team:
        shared(recipe, out, resume, verbose, say, team)


def shared(recipe: Recipe, out: Path, resume: bool, verbose: bool, say: Callable[[str], Any], team: Team) -> None:
    """What every process of a team does; the first one speaks."""
    say = say if team.rank == 0 else lambda _: None
    data = in_turn(team, lambda: load(recipe.data, recipe.data_folder))
    folder = Folder(out, {**recipe.asked(), "images": fingerprint(data.train.x, data.train.y)})
    check_same(team, "trainings", {**folder.asked, "resume": resume})
    learner = learner_of(recipe, data, first(team, lambda: ranks_before(folder) if resume else None), team)
    if recipe.warm_start:
        learner = warm(recipe, learner, data, folder, resume, team)
    device = next(learner.model.parameters()).device
    x, y = data.train
    batches = shuffled(x, y, recipe.batch_size, recipe.seed, device, even=recipe.warm_start)

    def validate() -> dict[str, float]:
        return measured(learner.model, learner.model, *data.validation, adversary_of(recipe), team=team).shares()

    course = Course(recipe.epochs, recipe.seed, recipe.patience, verbose)
    ranks, processes = ranks_of(learner.model) or "full", f", {team.size} processes" if team.size > 1 else ""
    say(f"{len(x)} images of {recipe.data}, method {recipe.method}, ranks {ranks}{processes}")
    history = train(learner, batches, course, validate, folder, resume, team)
    load_weights(learner.model, first(team, lambda: read_weights(out / BEST)), out / BEST)
    finish(recipe, learner, data, history, out, say, team)


def check(recipe: Recipe) -> None:
    """What can be refused before any data is read: also what only the card will need."""
    if not 0 <= recipe.tighten <= 1:
        raise ValueError(f"tighten is {recipe.tighten!r}; give a share of all steps in [0, 1]")
    if recipe.steps < 1:
        raise ValueError(f"steps is {recipe.steps}; give at least 1 gradient")
    check_precision(recipe.precision)
    objective = Objective(recipe.objective, adversary_of(recipe), recipe.beta)
    if recipe.warm_start and recipe.objective == "standard":
        raise ValueError("--warm-start needs an attack; give --objective madry or --objective trades")
    if recipe.warm_start:
        check_warm(objective, None)
    Pgd(recipe.eps, norm_of(recipe.norm), recipe.steps, rank_of(recipe.rank))


def finish(
    recipe: Recipe,
    learner: Learner,
    data: Data,
    history: list[Epoch],
    out: Path,
    say: Callable[[str], Any],
    team: Team,
) -> None:
    """Measure on test images and write the card."""
    results = tested(recipe, learner, data, team)
    known = {**asdict(recipe), "epochs_run": len(history), "best_epoch": best_of(history) + 1}
    found = card.card_of(learner.model, known, results, versions("art-lowrank", "torch"))
    first(team, lambda: card.write(found, out))
    for name, interval in found["accuracy"].items():
        say(f"{name:24s} {Interval(*interval).percent()}")
    say(f"{100 * found['parameters']['share']:.1f} % of the parameters are stored")
    for name, layer in found["layers"].items():
        say(f"  {name:22s} rank {layer['rank']} of {layer['of']}, condition number {layer['cond']:.4f}")
    say(f"Model card: {out / 'card.md'}\nBest weights: {out / BEST}\nLast state: {out / LAST}")


def learner_of(recipe: Recipe, data: Data, ranks: dict[str, int] | None, team: Team = ALONE) -> Learner:
    """The model, factorised, with its optimizer, method and schedule. Ranks of a run that is resumed are given."""
    if ranks is None and team.size > 1:  # which follow from activations, and these from a machine's rounding
        ranks = first(team, lambda: ranks_of(learner_of(recipe, data, None).model))
    kind = {"condlr": {"max_cond": recipe.max_cond}, "dlrt": {"keep": recipe.keep}}.get(recipe.method, {})
    options = options_of(recipe.method, kind)
    objective = Objective(recipe.objective, adversary_of(recipe), recipe.beta)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(recipe.seed)
        model = model_of(recipe, data)
        model.to(device_of(team))
        if recipe.method not in DENSE:
            images = None if ranks else data.train.x[:LOOK]
            fresh = recipe.weights is None
            model = factorize(model, keep=recipe.keep, ranks=ranks or None, data=images, fresh=fresh)
    optimizer = optimizer_of(recipe, model)
    if recipe.method == "condlr" and recipe.tighten:
        options["over"] = round(recipe.tighten * recipe.epochs * -(-len(data.train.x) // recipe.batch_size))
    handles = attach(recipe.method, model, optimizer, options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    precision = precision_of(recipe.precision, next(model.parameters()).device)
    return Learner(model, model, optimizer, objective, handles, schedule, precision=precision)


def warm(recipe: Recipe, learner: Learner, data: Data, folder: Folder, resume: bool, team: Team = ALONE) -> Learner:
    """The same, from stored perturbations that lie beside the checkpoint; validation images watch over it."""
    settings, x = WarmStart(), data.train.x
    place, name = folder.path / "perturbations", fingerprint(x, data.train.y)
    objective = remembering(learner.objective, settings, len(x), tuple(x.shape[1:]), place, name, resume, team)
    return replace(learner, objective=objective, watch=watch_of(learner.objective, settings, data.validation))


def model_of(recipe: Recipe, data: Data) -> nn.Module:
    """`small`, or what `module:callable` returns; with the weights of a safetensors file where one is named."""
    if recipe.model == "small":
        model: Any = small_net(data.train.x.shape[1], data.classes)
    else:
        place, _, name = recipe.model.partition(":")
        try:
            with here():
                model = getattr(import_module(place), name)()
        except Exception as error:
            raise ValueError(f"model is {recipe.model!r} ({reason(error)}); give small, or module:callable") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{recipe.model} returned a {type(model).__name__}; it must return a torch.nn.Module")
    if recipe.weights is not None:
        load_weights(model, read_weights(recipe.weights), recipe.weights)
    if candidates(model):  # else factorize says what is missing
        check_output(recipe, model, data)
    return model


def check_output(recipe: Recipe, model: nn.Module, data: Data) -> None:
    """Logits for these images, as many as there are classes."""
    try:
        with evaluating(model), torch.no_grad():
            outputs = model(data.train.x[:2])
    except Exception as error:
        shape = tuple(data.train.x.shape[1:])
        raise ValueError(f"{recipe.model} does not take images of shape {shape}: {reason(error)}") from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < data.classes:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"{recipe.model} returns {found} for 2 images; give logits for {data.classes} classes")


@contextmanager
def here() -> Iterator[None]:
    """Modules of the present folder can be imported, as with `python -m`."""
    before = list(sys.path)
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path[:] = before


def small_net(channels: int, classes: int) -> nn.Sequential:
    """Two convolutions and two linear layers for images of any size, about 150,000 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=0.0)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.lr, momentum=0.9)
    raise ValueError(f"optimizer is {recipe.optimizer!r}; give adamw or sgd")


def adversary_of(recipe: Recipe) -> Adversary | None:
    """The inner attack, or None for training on clean images."""
    if recipe.objective == "standard":
        return None
    if recipe.steps == 1:
        return SingleStep(recipe.eps, norm_of(recipe.norm))
    return Pgd(recipe.eps, norm_of(recipe.norm), recipe.steps, rank_of(recipe.rank))


def norm_of(text: str) -> int | str:
    """`2`, or another name the attack knows."""
    return 2 if text in ("2", "l2", "L2") else text


def rank_of(text: str) -> int | float | str:
    """`3`, `0.1` or `full`."""
    if text == "full":
        return text
    try:
        rank = int(text) if text.isdigit() else float(text)
    except ValueError as error:
        raise ValueError(f"rank is {text!r}; give a whole number, a share such as 0.1, or full") from error
    return rank


def tested(recipe: Recipe, learner: Learner, data: Data, team: Team) -> dict[str, Right]:
    """Clean accuracy, and that under 40 steps at full rank and at a tenth of it, on the first test images."""
    x, y = data.test.x[:TESTED], data.test.y[:TESTED]
    found = {}
    for rank in ("full", 0.1):
        name = f"lowrank-pgd[power] {recipe.norm} eps={recipe.eps:g} rank={rank} N=40"
        attack = Pgd(recipe.eps, norm_of(recipe.norm), 40, rank)
        found[name] = measured(learner.model, learner.model, x, y, attack, team=team)
    return found
