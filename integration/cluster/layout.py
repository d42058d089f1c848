"""Whether channels_last, torch.compile and bfloat16 help: forward and gradient of the input, against plain float32.

python integration/cluster/layout.py                       # on CUDA if there is a device, else the CPU
python integration/cluster/layout.py --nets resnet-50 --batch 16 --repeats 5 --results /tmp/try.jsonl

Interleaved repeats, the median of ratios with its interval. torch.compile is warmed up before, and that is timed too.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "gpu"))

from nets import net
from throughput import seconds

from art_lowrank.record import Record, append, versions
from art_lowrank.statistics import median_ratio

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cluster.jsonl"
KIND, CHANGES = "layout", ("channels_last", "compile", "bf16", "bf16 channels_last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["resnet-50", "wrn-28-10"])
    parser.add_argument("--batch", type=int, default=None, help="images; by default what the net is measured with")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.nets:
        for record in measured(name, torch.device(arguments.device), arguments.batch, arguments.repeats):
            append(arguments.results, record)
            print(f"{name} {record.settings['change']}: {record.values['ratio']}", flush=True)


def measured(name: str, device: torch.device, batch: int | None, repeats: int) -> list[Record]:
    """One record a change: plain float32 / changed, above 1 where the change helps."""
    model, shape = net(name)
    x = torch.rand((batch or shape[0], *shape[1:]), device=device)
    works, ready = contenders(model.to(device).requires_grad_(False), x)
    rounds = [{what: seconds(work, device) for what, work in works.items()} for _ in range(repeats + 1)][1:]
    plain = [one["plain"] for one in rounds]
    found = []
    for change in (what for what in works if what != "plain"):
        ratio = median_ratio(plain, [one[change] for one in rounds])
        settings = {"change": change, "batch": len(x), "repeats": repeats, "threads": torch.get_num_threads()}
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        values = {"ratio": [ratio.value, ratio.low, ratio.high], "device": where, "ready": ready.get(change, 0.0)}
        volatile = {"seconds": plain}
        found.append(Record(KIND, name, "random", "none", 0, len(x), settings, values, volatile, versions("torch")))
    return found


def contenders(model: nn.Module, x: Tensor) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What is timed, and the seconds until what has to be made ready is."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    wide = x.to(memory_format=torch.channels_last)
    works: dict[str, Callable[[], object]] = {
        "plain": lambda: gradient(model, x),
        "channels_last": lambda: gradient(last, wide),
        "bf16": lambda: gradient(model, x, half=True),
        "bf16 channels_last": lambda: gradient(last, wide, half=True),
    }
    compiled, started = torch.compile(copy.deepcopy(model)), time.perf_counter()
    try:
        gradient(compiled, x)
    except Exception as error:  # no compiler on this machine, for instance
        print(f"torch.compile left out: {str(error).strip().splitlines()[0][:100]}")
        return works, {}
    works["compile"] = lambda: gradient(compiled, x)
    return works, {"compile": time.perf_counter() - started}


def gradient(model: nn.Module, x: Tensor, half: bool = False) -> Tensor:
    """What every step of an attack asks for."""
    leaf = x.detach().requires_grad_()
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
        total = model(leaf).float().logsumexp(1).sum()
    return torch.autograd.grad(total, leaf)[0]


if __name__ == "__main__":
    main()
