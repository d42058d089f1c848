"""`art-lowrank train`: its flags."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click


def _from_toml(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Settings of a TOML file as defaults, which flags overrule."""
    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path} cannot be read: {error}") from error
    known = {parameter.name for parameter in context.command.params}
    if unknown := sorted(found.keys() - known):
        raise click.BadParameter(f"{path} sets {unknown[0]!r}; known are {', '.join(sorted(map(str, known)))}")
    for name, value in found.items():
        if not isinstance(value, str | int | float | bool):
            raise click.BadParameter(f"{path} sets {name} to {value!r}; give a number, a text, true or false")
    context.default_map = found
    return path


@click.command(context_settings={"show_default": True})
@click.option("--config", type=click.Path(path_type=Path), is_eager=True, callback=_from_toml, expose_value=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("art-lowrank-train"))
@click.option("--data", default="digits", help="digits, file.npz (x_train, y_train, x_test, y_test), torchvision:NAME.")
@click.option("--data-folder", default="data", help="Where torchvision keeps its files.")
@click.option("--model", default="small", help="small, or module:callable that returns a torch module.")
@click.option("--weights", default=None, help="Safetensors file to start from; without, the weights start anew.")
@click.option("--method", default="condlr", help="condlr, dlrt, nuclear, none (low-rank, no bound) or dense.")
@click.option("--keep", type=float, default=0.2, help="Share of the parameters to be stored.")
@click.option("--max-cond", type=float, default=1.5, help="Bound on condition numbers (condlr).")
@click.option("--tighten", type=float, default=0.0, help="Share of the steps over which the bound comes down.")
@click.option("--objective", default="standard", help="standard, madry or trades.")
@click.option("--eps", type=float, default=0.5, help="Radius of the attack, in training and for the card.")
@click.option("--norm", default="2", help="2 or inf.")
@click.option("--steps", type=int, default=5, help="Gradients of the attack in training; 1 is fast training.")
@click.option("--rank", default="full", help="Rank of the attack in training: full, 3, 0.1.")
@click.option("--beta", type=float, default=6.0, help="Weight of the second term of trades.")
@click.option(
    "--warm-start",
    is_flag=True,
    help="With madry or trades: one step from the last epoch's attack; --steps then validates only.",
)
@click.option("--precision", default="float32", help="float32, or mixed: bf16, fp16.")
@click.option("--optimizer", default="adamw", help="adamw or sgd.")
@click.option("--lr", type=float, default=3e-3)
@click.option("--epochs", type=click.IntRange(min=1), default=20)
@click.option("--batch-size", type=click.IntRange(min=1), default=128)
@click.option(
    "--patience", type=click.IntRange(min=1), default=None, help="Epochs without a better one before stopping."
)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--resume/--no-resume", default=True, help="Go on from the folder's last state, if it has one.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(out: Path, resume: bool, quiet: bool, **settings: Any) -> None:
    """Train a low-rank net; a folder gets checkpoints, the best weights and a model card.

    Run again after a kill, it goes on where it was. Flags can also be keys of a TOML file: --config recipe.toml.
    """
    from art_lowrank.training.run import Recipe
    from art_lowrank.training.run import main as run_train

    try:
        run_train(Recipe(**settings), out, resume, not quiet, click.echo)
    except (ValueError, OSError, ArithmeticError) as error:
        raise click.ClickException(str(error)) from error
