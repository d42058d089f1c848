"""The whole path offline: zoo entry, cached weights, CIFAR-10 archive, attacks, records, table, leaderboard."""

from __future__ import annotations

import json
import pickle
import socket
import tarfile
from hashlib import md5
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

if find_spec("robustbench") is None or find_spec("pyautoattack") is None:
    pytest.skip("the extra art-lowrank[robustbench] is not installed", allow_module_level=True)

from art_lowrank.cli import main
from art_lowrank.evaluate import published
from art_lowrank.hosts.robustbench_enable import part
from art_lowrank.record import read

N = 12


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A zoo with one net more, its weights in the cache, a small archive of CIFAR-10 where the download would go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(socket.gaierror("no network")))
    enums = part("model_zoo.enums")
    models = part("model_zoo").model_dicts[enums.BenchmarkDataset.cifar_10][enums.ThreatModel.L2]
    monkeypatch.setitem(models, "Tiny2026", {"model": tiny, "gdrive_id": "local"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = tiny()
    cache = tmp_path / "models" / "cifar10" / "L2"
    cache.mkdir(parents=True)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, cache / "Tiny2026.pt"
    )
    archive(monkeypatch, tmp_path / "data", net)
    return tmp_path


def archive(monkeypatch, folder, net):
    """Images whose labels are what the net says, so that it is right on all of them."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3072), dtype=np.uint8)
    x = torch.from_numpy(pixels.reshape(N, 3, 32, 32)).float() / 255
    labels = net(x).argmax(1).tolist()
    kind, files = part("data").datasets.CIFAR10, {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        files[name] = pickle.dumps({"data": pixels, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    folder.mkdir()
    with tarfile.open(folder / kind.filename, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
    sums = {name: md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(kind, "tgz_md5", md5((folder / kind.filename).read_bytes()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums["batches.meta"]})


def run(*arguments):
    shown = CliRunner().invoke(main, ["evaluate", "--quiet", *map(str, arguments)], catch_exceptions=False)
    return shown.exit_code, shown.output


def test_from_zoo_entry_to_leaderboard(folder, monkeypatch):
    monkeypatch.setattr(
        published, "_cards", lambda: {"cifar10/L2/Tiny2026": published.Card("L2", "0.3", 99.0, 20.0, None, False)}
    )
    code, shown = run(
        *("--out", "out", "--model", "robustbench:cifar10/L2/Tiny2026", "--data", "robustbench:cifar10"),
        *("--eps", 0.3, "--slice", 8, "--leaderboard", "--attack", "lowrank-pgd[rank=3]"),
        *("--attack", "apgd-ce", "--attack", "autoattack[members=apgd-ce+apgd-t]"),
    )
    assert code == 0, shown
    records = read("out/records.jsonl")
    assert len(records) == 2 * 4
    assert all(record.values["status"] == "done" for record in records)
    assert {record.versions.get("robustbench") for record in records} == {"1.1.1"}
    info = json.loads((folder / "out/leaderboard/cifar10/L2/Tiny2026.json").read_text())
    assert info["clean_acc"] == "100.00"
    assert info["autoattack_acc"] is None  # two members are not AutoAttack
    assert 0 < float(info["external"]) < 100
    assert info["art_lowrank"]["published"]["autoattack"] == 20.0
    adversarial = torch.load(folder / "out/leaderboard/cifar10/L2/Tiny2026.pt", weights_only=True)
    assert adversarial.shape == (N, 3, 32, 32)
    assert f"{float(info['external']):.1f} % [" in shown
    assert "AutoAttack 20.00 % at L2 0.3" in shown
    assert info["art_lowrank"]["comparison"].startswith("published AutoAttack 20.0 %, here")


def test_benchmark_of_robustbench_is_an_attack(folder):
    code, shown = run(
        *("--out", "out", "--model", "robustbench:cifar10/L2/Tiny2026", "--data", "cifar10", "--images", 4),
        *("--eps", 30, "--attack", "robustbench:benchmark"),
    )
    assert code == 0, shown
    (record,) = (record for record in read("out/records.jsonl") if record.attack != "clean")
    assert record.values["right"] == 0  # a ball that holds every image


def test_missing_weights_are_one_line_and_the_rest_runs(folder):
    code, shown = run(
        *("--out", "out", "--model", "robustbench:cifar10/L2/Rice2020Overfitting", "--data", "robustbench:cifar10"),
        *("--model", "robustbench:cifar10/L2/Tiny2026", "--attack", "lowrank-pgd[steps=2]"),
    )
    assert code == 3
    assert "models/cifar10/L2/Rice2020Overfitting.pt" in shown
    assert [record.values["status"] for record in read("out/records.jsonl")] == ["failed", "failed", "done", "done"]
    assert not (folder / "models/cifar10/L2/Rice2020Overfitting.pt").exists()


def test_an_unknown_name_is_answered_with_the_nearest(folder):
    code, shown = run("--out", "out", "--model", "robustbench:cifar10/L2/Rice2020", "--data", "cifar10")
    assert code == 1
    assert "Rice2020Overfitting" in shown
    assert "Traceback" not in shown
