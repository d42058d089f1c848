"""How much an evaluation gets done with one worker and with two: images x gradients a second, on Ray.

python integration/cluster/workers.py                      # on CUDA: WRN-28-10 and ResNet-50, two workers share a GPU
python integration/cluster/workers.py --device cpu --nets tiny --images 64 --repeats 2 --results /tmp/try.jsonl

On a GPU one worker has all of it, then two have a half each; on a CPU each worker has one core. The ways take turns;
the time is from the first record to the last, so that starting Ray and loading the net do not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from art_lowrank.evaluate import Plan, evaluate
from art_lowrank.evaluate.ray import OnRay, connected
from art_lowrank.record import Record, append, versions
from art_lowrank.statistics import median_ratio

NETS = Path(__file__).resolve().parents[1] / "gpu"
RESULTS = NETS.parent / "results" / "cluster.jsonl"
KIND, ATTACK = "workers", "lowrank-pgd[rank=3,steps=10,early_stop=false]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["wrn-28-10", "resnet-50"])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(NETS))
    with tempfile.TemporaryDirectory() as folder, connected("local"):
        for name in arguments.nets:
            record = measured(name, arguments, Path(folder))
            append(arguments.results, record)
            print(f"{name}: {record.values}", flush=True)


def measured(name: str, arguments: argparse.Namespace, folder: Path) -> Record:
    """One net's record: the rate with two workers over that with one."""
    from nets import net

    model, (_, *shape) = net(name)
    images = folder / f"{name}.npz"
    x = np.random.default_rng(0).integers(0, 256, (arguments.images, *shape), dtype=np.uint8)
    np.savez(images, x=x, y=said(model.to(arguments.device), x, arguments.batch))
    rates: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(arguments.repeats):
        for workers in rates:
            plan = Plan(
                models=[f"nets:only[name={name}]"],
                data=[str(images)],
                attacks=[ATTACK],
                slice=arguments.images // arguments.slices,
                batch_size=arguments.batch,
                device=arguments.device,
                precision=arguments.precision,
                keep_images=False,
            )
            rates[workers].append(rate(plan, folder / f"{name}-{workers}-{repeat}", workers))
    ratio = median_ratio(rates[2], rates[1])
    settings = {"attack": ATTACK, "batch": arguments.batch, "slices": arguments.slices, "repeats": arguments.repeats}
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu, one thread a worker"
    values = {
        "device": device,
        "two / one": [ratio.value, ratio.low, ratio.high],
        **{
            f"images x gradients a second, {workers}": sorted(found)[len(found) // 2]
            for workers, found in rates.items()
        },
    }
    settings["precision"] = arguments.precision
    return Record(
        KIND, name, "random", ATTACK, 0, arguments.images, settings, values, {"rates": list(rates.values())},
        versions("torch", "ray"),
    )  # fmt: skip


@torch.no_grad()
def said(model: torch.nn.Module, x: np.ndarray, batch: int) -> np.ndarray:
    """The net's own answers as labels: an attack is run on what is right."""
    device = next(model.parameters()).device
    parts = (torch.from_numpy(x[start : start + batch]).to(device) / 255 for start in range(0, len(x), batch))
    return torch.cat([model(part).argmax(1).cpu() for part in parts]).numpy()


def rate(plan: Plan, out: Path, workers: int) -> float:
    """Images x gradients a second of the attacked cells, between the first and the last of all records."""
    seen: list[tuple[float, int]] = []
    engine = OnRay(plan, workers=workers, cpus=1, gpus=1 / workers if plan.device == "cuda" else 0)

    def timed(todo, work, say):  # type: ignore[no-untyped-def]
        for cell in engine(todo, work, say):
            found = work.store.get(cell.id)
            seen.append((time.perf_counter(), int(found.values["gradients"]) if cell.attack != "clean" else 0))
            yield cell

    evaluate(plan, out, verbose=False, engine=timed)
    return sum(gradients for _, gradients in seen[1:]) / (seen[-1][0] - seen[0][0])


if __name__ == "__main__":
    main()
