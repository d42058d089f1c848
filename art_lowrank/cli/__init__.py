"""The command `art-lowrank`. Every command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from art_lowrank import __version__
from art_lowrank.cli.evaluate import evaluate
from art_lowrank.cli.train import train


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


main.add_command(train)
main.add_command(evaluate)
