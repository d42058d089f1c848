"""`art-lowrank train`: whole, from TOML, on other data and models, gone on after a stop, and refused in one line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from art_lowrank import lowrank_pgd
from art_lowrank.cli import main
from art_lowrank.training import run as recipes
from art_lowrank.weights import factorize, ranks_of

RNG = np.random.default_rng(0)


def pictures(n):
    """Bright bars, one column or row a class: easy to learn, in one channel of 8 x 8."""
    labels = np.arange(n) % 4
    images = RNG.integers(0, 60, (n, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 2] += 120
    return images, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An .npz file with 150 images to train on and 60 to test."""
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    parts = dict(zip(("x_train", "y_train"), pictures(150), strict=True))
    parts |= dict(zip(("x_test", "y_test"), pictures(60), strict=True))
    np.savez(path, **parts)
    return str(path)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """The card is measured on 20 images, where a test does not say otherwise."""
    monkeypatch.setattr(recipes, "TESTED", 20)


def train(out, *arguments):
    return CliRunner().invoke(main, ["train", "--quiet", "--out", str(out), *map(str, arguments)])


def card_of(out):
    return json.loads((out / "card.json").read_text())


def refused(result, message, code=1):
    """One line that says it, and no traceback; click adds how to call a command to what it refuses itself."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert any(part in errors[0] for part in message.split("|"))
    assert result.output.rstrip().endswith(errors[0])
    assert "Traceback" not in result.output


def stepless(result, out):
    """Nothing was trained before the refusal."""
    assert not (out / "last.pt").exists(), result.output


def test_help_answers_without_torch():
    code = "import sys; from art_lowrank.cli import main; main(['train', '--help'], standalone_mode=False); "
    code += "print('torch' in sys.modules, 'numpy' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert shown.splitlines()[-1] == "False False"
    for flag in ("--config", "--data", "--model", "--method", "--keep", "--max-cond", "--objective", "--no-resume"):
        assert flag in shown
    assert "[default: 0.2]" in " ".join(shown.split())


def wilson(right, n):
    """Written out once more: 95 % of a share."""
    z, share = 1.959963984540054, right / n
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [share, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]


def test_whole_in_a_process_of_its_own(tmp_path, data):
    out = tmp_path / "new" / "run"
    command = [sys.executable, "-m", "art_lowrank", "train", "--data", data, "--out", out, "--epochs", "2"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=one_thread)
    assert found.returncode == 0, found.stderr
    assert "epochs: 100%" in found.stderr
    assert sorted(path.name for path in out.iterdir()) == ["best.safetensors", "card.json", "card.md", "last.pt"]
    for name in ("best.safetensors", "card.md", "last.pt"):
        assert str(out / name) in found.stdout
    assert "135 images" in found.stdout
    assert card_of(out)["accuracy"]["clean"][0] > 0.5


def test_the_card_says_what_is_measured_independently(tmp_path, monkeypatch):
    """Defaults, on the built-in digits; the first 100 test images are enough here."""
    monkeypatch.setattr(recipes, "TESTED", 100)
    out = tmp_path
    result = train(out, "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert "epochs" not in result.output
    card, best = card_of(out), load_file(out / "best.safetensors")

    net = factorize(recipes.small_net(1, 10), ranks=ranks_of(best))
    net.load_state_dict(best)
    net.eval()
    total = sum(value.numel() for name, value in best.items() if "extra" not in name)
    dense = sum(p.numel() for p in recipes.small_net(1, 10).parameters())
    assert card["parameters"] == {"stored": total, "dense": dense, "share": pytest.approx(total / dense, abs=1e-6)}
    assert total <= 0.2 * dense
    assert set(card["layers"]) == set(ranks_of(best))
    for name, layer in card["layers"].items():
        u, s, v = (best[f"{name}.weight_{part}"].double().numpy() for part in "usv")
        values = np.linalg.svd(u * s @ v.T, compute_uv=False)
        assert layer["rank"] == len(s)
        assert layer["of"] == len(values)
        assert layer["cond"] == pytest.approx(values[0] / values[len(s) - 1], abs=1e-5)
        assert layer["cond"] <= 1.5

    from sklearn.datasets import load_digits

    test = load_digits()
    x, y = torch.tensor(test.images, dtype=torch.float32)[1297:1397, None] / 16, torch.tensor(test.target[1297:1397])
    with torch.no_grad():
        right = int((net(x).argmax(1) == y).sum())
    assert card["images"] == 100
    assert card["accuracy"]["clean"] == pytest.approx(wilson(right, 100), abs=1e-9)
    for rank in ("full", 0.1):
        moved = lowrank_pgd(net, x, y, eps=0.5, norm=2, steps=40, rank=rank)
        interval = card["accuracy"][f"lowrank-pgd[power] 2 eps=0.5 rank={rank} N=40"]
        assert interval == pytest.approx(wilson(100 - int(moved.success.sum()), 100), abs=0.011)
    assert card["accuracy"]["clean"][0] > 0.5

    text = (out / "card.md").read_text()
    assert f"{right:.1f} % [" in text
    assert f"{total:,} of {dense:,} parameters" in text
    assert "On 100 test images" in text
    assert all(f"| {name} | {layer['rank']} |" in text for name, layer in card["layers"].items())
    assert "| epochs | 2 |" in text
    assert (card["recipe"]["epochs_run"], card["recipe"]["method"]) == (2, "condlr")


def test_flags_overrule_the_file_and_the_file_the_defaults(tmp_path, data):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'data = "{data}"\nepochs = 2\nkeep = 0.3\nmethod = "none"\nlr = 0.01\nnorm = 2\nbatch_size = 50\n'
    )
    result = train(tmp_path / "run", "--keep", "0.4", "--config", recipe, "--epochs", "1")
    assert result.exit_code == 0, result.output
    known = card_of(tmp_path / "run")["recipe"]
    assert (known["epochs"], known["keep"], known["method"], known["lr"]) == (1, 0.4, "none", 0.01)
    assert (known["norm"], known["batch_size"], known["max_cond"], known["data"]) == ("2", 50, 1.5, data)
    assert 0.3 < card_of(tmp_path / "run")["parameters"]["share"] <= 0.4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed = 3", "sets 'speed'; known are batch_size"),
        ("max-cond = 1.2", "sets 'max-cond'"),
        ("[train]\nepochs = 1", "sets 'train'"),
        ("epochs 3", "cannot be read"),
        ("epochs = 'many'", "'many' is not a valid integer"),
        ("eps = [1, 2]", "eps"),
        ("eps = 1979-05-27", "eps"),
    ],
)
def test_bad_toml_is_refused(tmp_path, text, message):
    (tmp_path / "recipe.toml").write_text(text)
    refused(train(tmp_path / "run", "--config", tmp_path / "recipe.toml"), message, code=2)


def test_a_config_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.toml", "bytes.toml", "."):
        refused(train(tmp_path / "run", "--config", tmp_path / name), "cannot be read", code=2)


@pytest.mark.parametrize(
    "flags",
    [
        ("--method", "condlr", "--tighten", "0.5"),
        ("--method", "dlrt", "--objective", "madry", "--steps", "1", "--norm", "inf", "--eps", "0.1"),
        ("--method", "nuclear", "--optimizer", "sgd", "--lr", "0.05"),
        ("--method", "dense", "--objective", "madry", "--steps", "1"),
        ("--method", "none", "--objective", "trades", "--steps", "2", "--rank", "2", "--beta", "3"),
        ("--objective", "madry", "--steps", "2", "--rank", "0.2"),
        ("--objective", "trades", "--norm", "inf", "--eps", "0.1", "--warm-start"),
    ],
)
def test_every_method_and_objective(tmp_path, data, flags):
    result = train(tmp_path, "--data", data, "--epochs", "2", *flags)
    assert result.exit_code == 0, result.output
    card = card_of(tmp_path)
    assert bool(card["layers"]) == (not {"nuclear", "dense"} & set(flags))
    if card["recipe"]["method"] == "condlr":
        assert all(layer["cond"] <= 1.5 for layer in card["layers"].values())
    shown = "inf" if "inf" in flags else "2"
    assert any(name.startswith(f"lowrank-pgd[power] {shown} eps=") for name in card["accuracy"])


def test_follows_from_its_seed(tmp_path, data):
    for number, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        flags = ("--epochs", "1", "--seed", seed, "--steps", "1", "--objective", "madry")
        assert train(tmp_path / str(number), "--data", data, *flags).exit_code == 0
        assert torch.equal(before, torch.get_rng_state())
    assert same(tmp_path / "1", tmp_path / "2")
    assert not same(tmp_path / "1", tmp_path / "3")


def test_early_stop(tmp_path, data):
    assert train(tmp_path, "--data", data, "--epochs", "9", "--lr", "0", "--patience", "2").exit_code == 0
    recipe = card_of(tmp_path)["recipe"]
    assert (recipe["epochs_run"], recipe["best_epoch"]) == (3, 1)


@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """A module of the user's, in the folder the command is called in."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(classes=4):\n"
        "    first = nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU()\n"
        "    return nn.Sequential(nn.Flatten(), *first, nn.Linear(40, classes))\n"
        "def needs(width):\n    return nn.Linear(width, 4)\n"
        "def narrow():\n    return net(2)\n"
        "def bare():\n    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten())\n"
        "def other():\n    return nn.Sequential(nn.Flatten(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 4))\n"
        "net.text = 'no module'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("mine", None)


def test_a_model_of_ones_own_and_its_weights(tmp_path, data, own_model):
    flags = ("--data", data, "--model", "mine:net", "--keep", "0.7")
    assert train(tmp_path / "dense", *flags, "--epochs", "6", "--lr", "0.01", "--method", "nuclear").exit_code == 0
    weights = tmp_path / "dense" / "best.safetensors"
    found = {}
    for name, more in (("begun", ("--weights", weights)), ("fresh", ())):
        result = train(tmp_path / name, *flags, "--epochs", "1", "--lr", "1e-9", "--method", "none", *more)
        assert result.exit_code == 0, result.output
        found[name] = load_file(tmp_path / name / "best.safetensors")
    dense, begun = load_file(weights), found["begun"]
    u, s, v = (begun[f"1.weight_{part}"].double() for part in "usv")
    left = torch.linalg.svdvals(dense["1.weight"].double())[len(s) :].square().sum().sqrt()
    assert float((dense["1.weight"].double() - u * s @ v.T).norm()) == pytest.approx(float(left), rel=1e-3)
    assert torch.allclose(found["fresh"]["1.weight_s"], found["fresh"]["1.weight_s"][0])  # a flat spectrum


def test_a_console_command_finds_models_in_the_present_folder(tmp_path, data, own_model, monkeypatch):
    """`art-lowrank` is a script elsewhere: unlike `python -m`, it does not put the present folder on the path."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".", str(tmp_path))])
    result = train(tmp_path / "run", "--data", data, "--model", "mine:net", "--epochs", "1", "--keep", "0.7")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing", "model is 'nothing'"),
        ("nowhere:net", "model is 'nowhere:net'"),
        ("mine:nowhere", "model is 'mine:nowhere'"),
        ("os:getcwd", "returned a str; it must return a torch.nn.Module"),
        ("mine:needs", "mine:needs"),
        ("mine:narrow", "classes"),
        ("mine:other", "mine:other"),
        ("mine:bare", "no Linear or Conv2d"),
        ("torch.nn:Identity", "torch.nn:Identity returns|no Linear or Conv2d"),
    ],
)
def test_models_that_do_not_do(tmp_path, data, own_model, model, message):
    result = train(tmp_path / "run", "--data", data, "--model", model, "--epochs", "1", "--keep", "0.9")
    refused(result, message)
    stepless(result, tmp_path / "run")


def test_weights_that_do_not_do(tmp_path, data):
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    save_file(recipes.small_net(3, 4).state_dict(), tmp_path / "colour.safetensors")
    whole = (tmp_path / "colour.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "text.safetensors").write_bytes(b"hello")
    for name, message in (
        ("foreign", "another architecture"),
        ("colour", "another architecture: size mismatch for 0.weight"),
        ("cut", "cannot be read as safetensors"),
        ("text", "cannot be read as safetensors"),
        ("nowhere", "cannot be read as safetensors"),
    ):
        path = tmp_path / f"{name}.safetensors"
        refused(train(tmp_path / "run", "--data", data, "--weights", path), message)


BAD_FLAGS = [
    (("--eps", "-1"), "eps is -1"),
    (("--eps", "nan"), "eps is nan"),
    (("--norm", "l7"), "norm is 'l7'"),
    (("--rank", "some"), "rank is 'some'"),
    (("--rank", "0"), "rank is 0"),
    (("--steps", "0"), "steps"),
    (("--objective", "madry", "--steps", "0"), "steps"),
    (("--objective", "madry", "--steps", "1", "--norm", "nuc"), "norm is 'nuc'"),
    (("--objective", "trades", "--beta", "-1"), "beta"),
    (("--objective", "free"), "objective is 'free'"),
    (("--tighten", "3"), "tighten is 3"),
    (("--warm-start",), "--warm-start needs an attack; give --objective madry"),
    (("--warm-start", "--objective", "madry", "--norm", "nuc"), "norm is 'nuc'"),
    (("--keep", "2"), "keep is 2.0"),
    (("--keep", "0.0001"), "give keep >="),
    (("--max-cond", "0.5"), "max_cond is 0.5"),
    (("--method", "cond"), "method is 'cond'"),
    (("--optimizer", "lion"), "optimizer is 'lion'; give adamw or sgd"),
    (("--lr", "-1"), "learning rate"),
    (("--data", "cifar"), "data is 'cifar'"),
    (("--data", "nowhere.npz"), "nowhere.npz cannot be read"),
    (("--weights", "nowhere"), "nowhere cannot be read"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS, ids=lambda value: " ".join(value) if len(value) < 7 else "")
def test_bad_flags_are_refused_before_any_training(tmp_path, data, flags, message):
    more = () if "--data" in flags else ("--data", data)
    result = train(tmp_path, "--epochs", "1", *more, *flags)
    refused(result, message, code=result.exit_code or 1)
    assert result.exit_code in (1, 2)
    stepless(result, tmp_path)


@pytest.mark.parametrize("flags", [("--epochs", "0"), ("--batch-size", "0"), ("--seed", "-1"), ("--patience", "0")])
def test_flags_out_of_range_are_clicks(tmp_path, flags):
    refused(train(tmp_path, *flags), f"Invalid value for '{flags[0]}'", code=2)


def test_a_rate_that_breaks_training_is_one_line(tmp_path, data):
    result = train(tmp_path, "--data", data, "--method", "none", "--lr", "1e30", "--optimizer", "sgd")
    refused(result, "lower the learning rate")


def same(first, second):
    first, second = (load_file(out / "best.safetensors") for out in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("more", [("--method", "condlr"), ("--method", "dlrt"), ("--warm-start",)])
def test_run_again_after_an_interrupt_it_goes_on(tmp_path, data, monkeypatch, more):
    flags = ("--data", data, "--epochs", "3", "--batch-size", "50", "--objective", "madry", *more)
    flags = (*flags, "--steps", "1", "--eps", "0.2")
    assert train(tmp_path / "whole", *flags).exit_code == 0
    real, calls = recipes.measured, []

    def stopping(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "measured", stopping)
        stopped = train(tmp_path / "stopped", *flags)
    assert stopped.exit_code == 1
    assert "Aborted" in stopped.output
    files = sorted(path.name for path in (tmp_path / "stopped").iterdir() if path.is_file())
    assert files == ["best.safetensors", "last.pt"]
    assert (tmp_path / "stopped" / "perturbations").exists() == ("--warm-start" in more)
    assert train(tmp_path / "stopped", *flags).exit_code == 0
    assert same(tmp_path / "whole", tmp_path / "stopped")
    cards = [card_of(tmp_path / name) for name in ("whole", "stopped")]
    assert cards[0] == cards[1]
    last = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "stopped")]
    assert all(torch.equal(value, last[1]["model"][name]) for name, value in last[0]["model"].items())


def test_a_folder_with_another_recipe(tmp_path, data):
    flags = ("--data", data, "--epochs", "1")
    assert train(tmp_path, *flags).exit_code == 0
    before = (tmp_path / "last.pt").read_bytes()
    result = train(tmp_path, *flags, "--keep", "0.4")
    refused(result, "holds training with keep=0.2, asked is 0.4")
    assert "--no-resume" in result.output
    assert (tmp_path / "last.pt").read_bytes() == before
    assert train(tmp_path, *flags, "--keep", "0.4", "--no-resume").exit_code == 0
    assert card_of(tmp_path)["recipe"]["keep"] == 0.4
    assert train(tmp_path, *flags, "--keep", "0.4").exit_code == 0


@pytest.mark.parametrize("name", ["last.pt", "best.safetensors"])
@pytest.mark.parametrize("kind", ["cut", "gone", "foreign"])
def test_a_folder_with_a_broken_file(tmp_path, data, name, kind):
    if (name, kind) == ("last.pt", "gone"):
        pytest.skip("then it begins anew")
    assert train(tmp_path, "--data", data, "--epochs", "1").exit_code == 0
    path = tmp_path / name
    whole = path.read_bytes()
    path.unlink()
    if kind != "gone":
        path.write_bytes(whole[: len(whole) // 2] if kind == "cut" else b"hello" * 100)
    refused(train(tmp_path, "--data", data, "--epochs", "1"), name)


def test_out_that_is_a_file(tmp_path, data):
    (tmp_path / "file").write_text("in the way")
    refused(train(tmp_path / "file", "--data", data), "is a file", code=2)
    result = train(tmp_path / "file" / "folder", "--data", data, "--epochs", "1")
    refused(result, str(tmp_path / "file"))


def test_data_without_network_or_sense(tmp_path, monkeypatch):
    np.savez(tmp_path / "bad.npz", x_train=np.zeros((3, 4)))
    refused(train(tmp_path / "run", "--data", tmp_path / "bad.npz"), "holds no array 'y_train'")
    pytest.importorskip("torchvision")
    refused(train(tmp_path / "run", "--data", "torchvision:Nonsense"), "no data set 'Nonsense'")
    import socket

    def offline(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(socket, "create_connection", offline)
    flags = ("--data", "torchvision:MNIST", "--data-folder", tmp_path / "images")
    refused(train(tmp_path / "run", *flags), "could not download MNIST")
