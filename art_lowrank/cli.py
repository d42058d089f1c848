"""The command `art-lowrank`. Every command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from art_lowrank import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="art-lowrank")
def main() -> None:
    """Low-rank adversarial attacks on image classifiers, training against them, and evaluation of both."""


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False, writable=True),
    default=Path("art-lowrank-demo"),
    show_default=True,
    help="Folder for the records and the report.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the attacks.")
def demo(out: Path, seed: int) -> None:
    """Evaluate three small nets for digits under our attacks, those of ART and torchattacks (about ten seconds)."""
    from art_lowrank.demo.run import main as run_demo

    try:
        run_demo(out, seed, click.echo)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out} ({error}); choose another folder with --out") from error
    except ValueError as error:
        raise click.ClickException(str(error)) from error


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


@main.command(context_settings={"show_default": True})
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


@main.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("art-lowrank-evaluation"))
@click.option("--plan", type=click.Path(path_type=Path), help="TOML file; models, attacks, data, seeds are lists.")
@click.option("--model", "models", multiple=True, help="One model; give it again for more.  [default: digits nets]")
@click.option(
    "--attack", "attacks", multiple=True, help="One attack; give it again for more, clean for none.  [default: six]"
)
@click.option("--data", multiple=True, help="digits, robustbench:cifar10, file.npz, folder:PATH.  [default: digits]")
@click.option("--norm", default=None, help="Of attacks that do not say: 2, inf, 1 or nuc.  [default: 2]")
@click.option("--eps", default=None, help="Radius of attacks that do not say, 0.5 or 8/255.  [default: 0.5]")
@click.option("--images", type=int, default=None, help="The first so many.  [default: all]")
@click.option("--slice", type=int, default=None, help="Images a cell: what a kill can cost.  [default: 1000]")
@click.option("--seed", "seeds", type=int, multiple=True, help="One seed; give it again for more.  [default: 0]")
@click.option(
    "--survivors",
    is_flag=True,
    default=None,
    help="An attack sees what those before it, with the same ball, have not broken.",
)
@click.option("--no-images", "keep_images", flag_value=False, default=None, help="Keep no adversarial images.")
@click.option("--batch-size", type=int, default=None, help="Halved where memory runs out.  [default: 128]")
@click.option("--device", default=None, help="auto, cpu, cuda:0 ...  [default: auto]")
@click.option("--precision", default=None, help="Of attacks that do not say: float32 or bf16.  [default: float32]")
@click.option("--data-dir", default=None, help="Where RobustBench's data lie.  [default: data]")
@click.option("--model-dir", default=None, help="Where RobustBench's weights lie.  [default: models]")
@click.option("--leaderboard", is_flag=True, help="Write RobustBench's JSON and .pt of adversarial images too.")
@click.option("--retry", is_flag=True, help="Run cells again that failed before.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option(
    "--plan-only", is_flag=True, help="Say what it would take, from a trial of a minute at most; run nothing."
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", help="This process, or a Ray cluster.")
@click.option(
    "--address", default=None, help="Of the Ray cluster: auto, HOST:PORT.  [default: $RAY_ADDRESS, else here]"
)
@click.option("--workers", type=int, default=None, help="On Ray at most so many.  [default: as many as fit]")
@click.option("--cpus", type=float, default=None, help="CPUs a worker on Ray.  [default: 1]")
@click.option("--gpus", type=float, default=None, help="GPUs a worker on Ray, 0.5 too.  [default: 1 if there are any]")
def evaluate(out: Path, plan: Path | None, leaderboard: bool, retry: bool, quiet: bool, **given: Any) -> None:
    """Attack models and print how many images hold; the folder keeps every outcome.

    Without a model it evaluates three small nets for digits, offline, in some seconds. Run again after a kill, it goes
    on where it was; run in several processes, they share the work. Names take parameters in brackets:

    \b
      --model robustbench:cifar10/L2/Rice2020Overfitting   torchvision:resnet18   timm:NAME   module:callable
      --model 'package.nets:build[weights=best.safetensors,mean=[0.5,0.5,0.5],std=[0.2,0.2,0.2]]'
      --attack 'lowrank-pgd[rank=3,steps=20,eps=8/255,norm=inf]'   'lora-pgd[rank=3]'   rank-curve   autoattack
      --attack 'torchattacks:PGDL2[steps=50]'   'art:ProjectedGradientDescent[max_iter=50,eps_step=0.1]'   apgd-t

    Ends with 0 if all went well, 1 if it could not begin or write, 2 for wrong flags, 3 if a model or an attack failed
    (the rest is done, the reason is in the record), 130 when interrupted.
    """
    from art_lowrank.evaluate.command import run_evaluation, run_forecast

    engine, chosen = given.pop("engine"), {name: v for name, v in given.items() if v is not None and v != ()}
    cluster: dict[str, Any] = {
        name: chosen.pop(name) for name in ("address", "workers", "cpus", "gpus") if name in chosen
    }
    if cluster and engine != "ray":
        raise click.UsageError(f"--{next(iter(cluster))} is for clusters; give --engine ray with it")
    where = cluster if engine == "ray" else None
    if chosen.pop("plan_only"):
        code = run_forecast(out, plan, chosen, retry, click.echo, where)
    else:
        code = run_evaluation(out, plan, chosen, leaderboard, retry, not quiet, click.echo, where)
    click.get_current_context().exit(code)


@main.command(context_settings={"show_default": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder to write.  [default: FOLDER/report]")
@click.option("--model", "models", multiple=True, help="One model only; give it again for more.  [default: all]")
@click.option("--gallery", type=click.IntRange(min=0), default=10, help="So many models get pictures.")
@click.option("--compare", type=click.Path(path_type=Path), default=None, help="An earlier evaluation's folder.")
@click.option("--fail-under", "bounds", multiple=True, help="robust=0.45, 'robust[L2 0.5]=0.45', clean=0.9.")
@click.option("--fail-on-doubt", "strict", is_flag=True, help="No mark may stand beside a number.")
def report(folder: Path, bounds: tuple[str, ...], **given: Any) -> None:
    """Write what an evaluation has found as a page (one HTML file), Markdown, CSV and PNG; no model is run.

    Ends with 0 if all is well, 1 if the folder cannot be read or written, 2 for wrong flags, 4 if a model is below
    --fail-under or its number is not known, 5 with --fail-on-doubt if a number is doubtful, 6 if, against --compare,
    something got worse by more than chance explains, or failed. Of several the lowest; each reason is printed.
    """
    from art_lowrank.evaluate.report.command import Asked
    from art_lowrank.evaluate.report.command import report as write_report
    from art_lowrank.evaluate.report.gate import bound_of
    from art_lowrank.evaluate.report.words import printable

    try:
        wanted = [bound_of(text) for text in bounds]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fail-under") from error
    asked = Asked(
        folder, given["out"], given["compare"], given["models"], given["gallery"], wanted, given["strict"]
    )  # fmt: skip
    try:
        code = write_report(asked, click.echo)
    except (ValueError, OSError) as error:
        raise click.ClickException(printable(str(error))) from error
    click.get_current_context().exit(code)


@main.command()
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--model", "models", multiple=True, help="As for evaluate.  [default: digits nets]")
@click.option("--attack", "attacks", multiple=True, help="As for evaluate.  [default: four of this package]")
@click.option("--data", multiple=True, help="As for evaluate.  [default: digits]")
@click.option("--norm", default=None, help="Of attacks that do not say: 2, inf, 1 or nuc.  [default: 2]")
@click.option("--eps", default=None, help="Radius of attacks that do not say, 0.5 or 8/255.  [default: 0.5]")
@click.option("--images", type=int, default=None, help="The first so many.  [default: all]")
@click.option("--batch-size", type=int, default=None, help="Halved where memory runs out.  [default: 128]")
@click.option("--device", default=None, help="auto, cpu, cuda:0 ...  [default: auto]")
@click.option("--data-dir", default=None, help="Where RobustBench's data lie.  [default: data]")
@click.option("--model-dir", default=None, help="Where RobustBench's weights lie.  [default: models]")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def spectra(out: Path | None, quiet: bool, **given: Any) -> None:
    """Say of what rank perturbations are, and what they do to the singular values of images.

    Beside the attacks on a model stands noise as long as the first one's perturbations. OUT is an evaluation's folder,
    of art-lowrank evaluate too; what is asked here and not in it is evaluated first, with the same names of models,
    attacks and data:

    \b
      art-lowrank spectra --model torchvision:resnet18 --data folder:PATH --attack 'torchattacks:PGDL2[steps=50]' runs
      art-lowrank spectra runs

    OUT/spectra gets spectra.csv (change of every singular value, energy in the largest k, stable, ratio and entropy
    rank; means with 95 % intervals, medians and quartiles over images) and pictures. Our own attacks stop at a broken
    image, and so does what is measured of them, unless they say early_stop=false. Without anything the digits nets
    are measured, in art-lowrank-spectra.

    Ends with 0 if all went well, 1 if nothing could be measured or written, 2 for wrong flags, 3 if a model or an
    attack failed, 130 when interrupted.
    """
    from art_lowrank.evaluate.perturbations.command import run_spectra

    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    try:
        code = run_spectra(out, chosen, not quiet, click.echo)
    except (ValueError, OSError, ImportError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error
    click.get_current_context().exit(code)


@main.command(context_settings={"show_default": True})
@click.option("--model", default=None, help="A model, as for evaluate: is it fed what it was trained on?")
@click.option("--data", default="digits", help="Its images, as for evaluate.")
@click.option("--images", type=click.IntRange(min=1), default=200, help="So many of them.")
@click.option("--expect", type=float, default=None, help="The clean accuracy it should have, in percent.")
@click.option("--device", default="auto", help="auto, cpu, cuda:0 ...")
@click.option("--data-dir", default="data", help="Where RobustBench's data lie.")
@click.option("--model-dir", default="models", help="Where RobustBench's weights lie.")
def doctor(model: str | None, data: str, images: int, expect: float | None, **given: Any) -> None:
    """Say what is installed, what works, what is broken, and the line that mends it.

    With --model it looks at one model instead: clean accuracy against its card (RobustBench's, or --expect), whether
    its logits react to the brightness of images, and which normalisation would do better. Ends with 1 if anything is
    broken; what is missing only is no fault.
    """
    from art_lowrank.evaluate.doctor import BROKEN, examine, model_finding

    expected = None if expect is None else expect / 100
    try:
        found = list(model_finding(model, data, images, expected, given)) if model else None
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error
    broken = False
    for finding in examine() if found is None else found:
        click.echo(str(finding))
        broken = broken or finding.state == BROKEN
    click.get_current_context().exit(1 if broken else 0)
