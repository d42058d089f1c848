"""The same evaluation on a GPU."""

from __future__ import annotations

import pytest
import torch

from art_lowrank.evaluate import Plan, evaluate
from art_lowrank.record import read, unpack

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_a_gpu_finds_what_the_cpu_finds(tmp_path):
    plans = {
        device: Plan(attacks=["lowrank-pgd[rank=2]", "rank-curve[steps=5]"], images=100, device=device)
        for device in ("cpu", "cuda")
    }
    found = {device: evaluate(plan, tmp_path / device, verbose=False) for device, plan in plans.items()}
    for cell in found["cpu"].cells:
        here, there = (found[device].records[cell.id] for device in ("cpu", "cuda"))
        flags = [unpack(record.values["robust"], record.n) for record in (here, there)]
        assert sum(a != b for a, b in zip(*flags, strict=True)) <= 2  # images on the edge, by rounding
        assert there.volatile["peak_bytes"] > 0
        assert there.volatile["device"] == torch.cuda.get_device_name()
        assert (here.values["model_hash"], here.values["data_hash"]) == (
            there.values["model_hash"],
            there.values["data_hash"],
        )


def test_memory_that_runs_out_halves_the_batch(tmp_path):
    """A limit of memory for this process, so that the real allocator says no."""
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.5e9 / total))
    try:
        plan = Plan(
            models=["torchvision.models:resnet18"],
            data=[str(images(tmp_path))],
            attacks=["lowrank-pgd[rank=3,steps=2]"],
            batch_size=512,
            device="cuda",
        )
        found = evaluate(plan, tmp_path / "out", verbose=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not found.failures, found.failures[0].values["traceback"]
    assert any(record.volatile["halved"] for record in found.records.values())


def images(folder):
    import numpy as np

    pytest.importorskip("torchvision")
    draws = np.random.default_rng(0)
    path = folder / "images.npz"
    np.savez(path, x=draws.integers(0, 256, (512, 96, 96, 3), dtype=np.uint8), y=draws.integers(0, 10, 512))
    return path


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_workers_on_one_gpu_find_what_one_process_finds(tmp_path, process, precision):
    pytest.importorskip("ray", reason="Ray is not installed")
    asked = ["--images", "200", "--slice", "50", "--attack", "lowrank-pgd[rank=2]", "--precision", precision]
    codes = [
        process(*asked, "--out", out, *more).wait(300)
        for out, more in (("local", []), ("ray", ["--engine", "ray", "--gpus", "0.5"]))
    ]
    assert codes == [0, 0]
    here, there = ({r.settings["cell"]: r for r in read(tmp_path / out / "records.jsonl")} for out in ("local", "ray"))
    assert here.keys() == there.keys()
    for cell, record in here.items():
        flags = [unpack(str(one.values["robust"]), one.n) for one in (record, there[cell])]
        assert sum(a != b for a, b in zip(*flags, strict=True)) <= 1
        assert there[cell].volatile["device"] == torch.cuda.get_device_name()


def test_a_forecast_on_a_gpu_is_within_a_factor_of_two(tmp_path):
    from art_lowrank.evaluate.forecast import forecast, total

    plan = Plan(attacks=["lowrank-pgd[rank=2]", "lora-pgd[rank=2]"], device="cuda")
    ((_, needs),) = forecast(plan, tmp_path / "out").kinds
    records = evaluate(plan, tmp_path / "out", verbose=False).records.values()
    assert 0.5 <= total(needs).seconds / sum(record.volatile["seconds"] for record in records) <= 2
    assert 0.5 <= total(needs).bytes / max(record.volatile["peak_bytes"] for record in records) <= 2
