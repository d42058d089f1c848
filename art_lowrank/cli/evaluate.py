"""`art-lowrank evaluate`: its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(context_settings={"show_default": True})
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
@click.option("--channels-last", is_flag=True, default=None, help="Convolutions in that memory format: often faster.")
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
