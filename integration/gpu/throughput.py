"""What a step of the attack costs on a GPU: update against forward and backward, bf16, peers, orthonormalisation.

python integration/gpu/throughput.py                        # both nets on CUDA, records in integration/results
python integration/gpu/throughput.py --device cpu --nets tiny --repeats 2 --results /tmp/try.jsonl
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from nets import net
from torch import Tensor, nn

from art_lowrank import lowrank_pgd, record
from art_lowrank.attack.losses import smooth_margin
from art_lowrank.attack.orthonormal import by_cholesky
from art_lowrank.record import Record
from art_lowrank.statistics import median_ratio

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu.jsonl"
STEPS, RANK, EPS = 10, 0.1, 0.5
LIMITS = {"update / model": ("at most", 0.02), "float32 / bf16": ("at least", 1.6)}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device idle before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def passes(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The model's share of an attack: STEPS forwards with backwards to the input, and one forward."""
    for _ in range(STEPS):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(smooth_margin(model(leaf), y).sum(), leaf)
    with torch.no_grad():
        model(x)


def peers(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """Attacks with as many gradients, of the toolkits that are installed."""
    try:
        import torchattacks

        attack = torchattacks.PGDL2(model, eps=EPS, alpha=0.2 * EPS, steps=STEPS, random_start=False)
        yield "torchattacks PGDL2", lambda: attack(x, y)
    except ImportError:
        print("torchattacks is not installed: left out")
    try:
        from autoattack.autopgd_base import APGDAttack

        apgd = APGDAttack(model, n_iter=STEPS, norm="L2", eps=EPS, loss="ce", device=x.device)
        apgd.init_hyperparam(x)
        yield "AutoAttack APGD-CE", lambda: apgd.perturb(x, y)
    except ImportError:
        print("autoattack is not installed: left out")


def contenders(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that is timed, interleaved, on one net."""
    ours = {"eps": EPS, "rank": RANK, "steps": STEPS}
    return {
        "model": lambda: passes(model, x, y),
        "ours": lambda: lowrank_pgd(model, x, y, **ours),
        "ours bf16": lambda: lowrank_pgd(model, x, y, precision="bf16", **ours),
        "ours full rank": lambda: lowrank_pgd(model, x, y, **{**ours, "rank": "full"}),
        **dict(peers(model, x, y)),
    }


def bases(shape: tuple[int, ...], device: torch.device) -> dict[str, Callable[[], object]]:
    """Two ways to orthonormalise the columns of a batch."""
    n, c, h, w = shape
    columns = torch.randn(n * c, h, max(1, round(RANK * min(h, w))), device=device)
    return {"linalg.qr": lambda: torch.linalg.qr(columns).Q, "Cholesky": lambda: by_cholesky(columns)}


def timed(works: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every work, all of them in turn `repeats` times after a first round that does not count."""
    rounds = [{name: seconds(work, device) for name, work in works.items()} for _ in range(repeats + 1)]
    return {name: [one[name] for one in rounds[1:]] for name in works}


def verdict(what: str, value: float) -> str:
    """Whether a ratio is what we aim at; nothing where we aim at nothing."""
    if what not in LIMITS:
        return ""
    kind, limit = LIMITS[what]
    met = value <= limit if kind == "at most" else value >= limit
    return f" ({kind} {limit}: {'met' if met else 'missed'})"


def measured(name: str, device: torch.device, repeats: int) -> Record:
    """One net's record; ratios with 95 % intervals, times as volatile."""
    model, shape = net(name)
    x, y = torch.rand(shape, device=device), torch.randint(0, 10, shape[:1], device=device)
    model = model.to(device)
    times = {**timed(contenders(model, x, y), repeats, device), **timed(bases(shape, device), repeats, device)}
    update = [ours - bare for ours, bare in zip(times["ours"], times["model"], strict=True)]
    pairs = {
        "update / model": (update, times["model"]),
        "float32 / bf16": (times["ours"], times["ours bf16"]),
        "linalg.qr / Cholesky": (times["linalg.qr"], times["Cholesky"]),
        **{f"{peer} / ours": (times[peer], times["ours"]) for peer in times if "PGD" in peer},
    }
    values = {}
    for what, (above, below) in pairs.items():
        found = median_ratio(above, below)
        values[what] = [found.value, found.low, found.high]
        print(f"{name}: {what} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]{verdict(what, found.value)}")
    gradients = shape[0] * STEPS / statistics.median(times["ours"])
    print(f"{name}: {gradients:.0f} gradients a second")
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return Record(
        kind="gpu-throughput",
        model=name,
        data=f"random-{'x'.join(map(str, shape))}",
        attack="lowrank-pgd[power]",
        seed=0,
        n=shape[0],
        settings={"eps": EPS, "rank": RANK, "steps": STEPS, "device": device_name},
        values=values,
        volatile={"gradients_per_second": gradients, "repeats": repeats},
        versions=record.versions("torch"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--nets", nargs="+", default=["wrn-28-10", "resnet-50"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device on this machine; --device cpu --nets tiny tries the script")
    for name in arguments.nets:
        record.append(arguments.results, measured(name, torch.device(arguments.device), arguments.repeats))


if __name__ == "__main__":
    main()
