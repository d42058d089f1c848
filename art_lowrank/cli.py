"""The command `art-lowrank`. Every command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path

import click

from art_lowrank import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="art-lowrank")
def main() -> None:
    """Low-rank adversarial attacks on image classifiers."""


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False, writable=True),
    default=Path("art-lowrank-demo"),
    show_default=True,
    help="Folder for the picture and the records.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of training and attacks.")
def demo(out: Path, seed: int) -> None:
    """Train a small net on digits and attack it through ART and torchattacks (about half a minute)."""
    from art_lowrank.demo.run import main as run_demo

    try:
        run_demo(out, seed, click.echo)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out} ({error}); choose another folder with --out") from error
