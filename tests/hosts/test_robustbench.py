"""RobustBench 1.1.1 works as it comes from the registry: import, zoo, data and benchmark, and says what is wrong."""

from __future__ import annotations

import inspect
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
from hashlib import md5
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

if find_spec("robustbench") is None or find_spec("pyautoattack") is None:
    pytest.skip("the extra art-lowrank[robustbench] is not installed", allow_module_level=True)

from art_lowrank.hosts import autoattack
from art_lowrank.hosts import robustbench as host
from art_lowrank.hosts.robustbench_enable import part


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test reaches the network, wherever it runs, nor the caches of who runs it."""

    def refused(*args, **kwargs):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


@pytest.fixture
def tiny_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return tiny()


@pytest.fixture
def zoo(monkeypatch):
    """The zoo's dictionary of CIFAR-10, with two more models."""
    enums = part("model_zoo.enums")
    models = part("model_zoo").model_dicts[enums.BenchmarkDataset.cifar_10][enums.ThreatModel.Linf]
    monkeypatch.setitem(models, "Tiny2026", {"model": tiny, "gdrive_id": "local"})
    ensemble = {"model": lambda: Pair([tiny(), tiny()]), "gdrive_id": ["first", "second"]}
    monkeypatch.setitem(models, "Pair2026", ensemble)
    return models


class Pair(nn.Module):
    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(models)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 3, 32, 32, generator=generator), torch.randint(0, 10, (8,), generator=generator)


def one_line(caught, *words):
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said


# --- enable


def fresh(code):
    """What a new process prints, with warnings as errors."""
    run = [sys.executable, "-W", "error", "-c", "import sys\n" + code]
    environment = {"PYTHONPATH": str(Path(host.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(run, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_import_works_without_what_the_wheel_misses():
    """Neither pkg_resources nor autoattack: both are there for robustbench only."""
    said = fresh(
        "sys.modules['pkg_resources'] = sys.modules['autoattack'] = sys.modules['autoattack.state'] = None\n"
        "import art_lowrank.hosts.robustbench as host\n"
        "print([n for n in ('robustbench', 'timm', 'torchvision', 'pyautoattack') if n in sys.modules])\n"
        "host.enable(); host.enable()\n"
        "import robustbench, robustbench.loaders as loaders\n"
        "from robustbench.utils import load_model\n"
        "print(robustbench.eval.AutoAttack.__module__)\n"
        "print(sys.modules['autoattack'], sys.modules['pkg_resources'])\n"
        "ids = 'helper_files/imagenet_test_image_ids.txt'\n"
        "with open(loaders.pkg_resources.resource_filename('robustbench.loaders', ids)) as file:\n"
        "    print(len(file.readlines()))\n"
    )
    assert said.splitlines() == ["[]", "art_lowrank.hosts.autoattack", "None None", "5000"]


def again(monkeypatch):
    """Robustbench will be imported once more, without what registers models; afterwards it is the one it was."""
    part("eval")
    for name in ("robustbench", "robustbench.eval"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("whole", [False, True])
def test_a_real_autoattack_is_not_replaced(monkeypatch, tmp_path, whole):
    """Neither a whole one nor one that lacks the state, such as that in the wheel of torchattacks 3.3.0."""
    package = tmp_path / "autoattack"
    package.mkdir()
    (package / "__init__.py").write_text("class AutoAttack:\n    mark = 'real'\n")
    if whole:
        (package / "state.py").write_text("class EvaluationState: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "autoattack"]:
        monkeypatch.delitem(sys.modules, name)
    again(monkeypatch)
    try:
        host.enable()
        fresh_eval = sys.modules["robustbench.eval"]
        assert fresh_eval.AutoAttack.mark == sys.modules["autoattack"].AutoAttack.mark == "real"
        assert ("autoattack.state" in sys.modules) == whole
        states = "autoattack.state" if whole else "art_lowrank.hosts.robustbench_enable"
        assert fresh_eval.EvaluationState.__module__ == states
    finally:
        for name in ("autoattack", "autoattack.state"):
            sys.modules.pop(name, None)


def test_import_errors_name_the_remedy(monkeypatch):
    again(monkeypatch)
    monkeypatch.setitem(sys.modules, "robustbench.data", None)  # fails as a missing part does
    with pytest.raises(
        ImportError, match=r"does not import .*pip install robustbench pyautoattack 'setuptools<82'"
    ) as caught:
        host.enable()
    one_line(caught)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0.20" if name == "timm" else version(name))
    with pytest.raises(ImportError, match=r"with timm 1.0.20 .*pip install timm==1.0.9") as caught:
        host.enable()
    one_line(caught)
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(
        ImportError, match=r"robustbench is not installed; .*pip install robustbench pyautoattack 'setuptools<82'"
    ):
        host.enable()


# --- load_model


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def test_a_local_model_is_loaded(zoo, tiny_net, images, tmp_path):
    put(tmp_path / "models/cifar10/Linf/Tiny2026.pt", {"state_dict": tiny_net.state_dict()})
    drawn = torch.get_rng_state()
    model = host.load_model("Tiny2026")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not model.training
    assert torch.equal(model(images[0]), tiny_net(images[0]))
    for i in range(2):
        put(tmp_path / f"other/cifar10/Linf/Pair2026.pt_m{i}.pt", tiny_net.state_dict())
    pair = host.load_model("Pair2026", tmp_path / "other")
    assert torch.equal(pair.models[1](images[0]), tiny_net(images[0]))


def test_a_custom_checkpoint_is_used(zoo, tiny_net, images, tmp_path):
    path = put(tmp_path / "mine.pt", {f"module.{k}": v for k, v in tiny_net.state_dict().items()})
    model = host.load_model("Tiny2026", custom_checkpoint=path)
    assert torch.equal(model(images[0]), tiny_net(images[0]))
    assert not (tmp_path / "models").exists()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.pt"):
        host.load_model("Tiny2026", custom_checkpoint="none.pt")
    with pytest.raises(ValueError, match="custom_checkpoint is one file and Pair2026 has 2"):
        host.load_model("Pair2026", custom_checkpoint=path)
    with pytest.raises(ValueError, match=r"Wong2020Fast does not take the weights in .*mine.pt") as caught:
        host.load_model("Wong2020Fast", custom_checkpoint=path)
    one_line(caught, "Missing key")
    with pytest.raises(ValueError, match="Debenedetti2022Light_XCiT-S12 does not take the weights in") as caught:
        host.load_model("Debenedetti2022Light_XCiT-S12", custom_checkpoint=path)
    one_line(caught)


def test_a_custom_checkpoint_of_timm_is_used(tmp_path):
    name = "Debenedetti2022Light_XCiT-S12"
    whole = host.architecture(name)
    with torch.no_grad():
        whole.model.head.bias.fill_(7.0)
    for content in ({"state_dict": whole.state_dict()}, whole.model.state_dict()):
        model = host.load_model(name, custom_checkpoint=put(tmp_path / "mine.pt", content))
        assert (model.model.head.bias == 7).all()
        assert not model.training


def test_no_file_and_no_network(zoo, tmp_path):
    with pytest.raises(OSError, match="cannot be downloaded") as caught:
        host.load_model("Tiny2026", "weights")
    one_line(caught, "weights/cifar10/Linf/Tiny2026.pt is not there", "Google Drive id local")
    with pytest.raises(OSError, match="cannot be downloaded") as caught:
        host.load_model("Pair2026", "weights")
    one_line(caught, "Pair2026.pt_m0.pt", "Google Drive id first")
    for name, dataset, file in (
        ("Standard_R50", "imagenet", "resnet50-0676ba61.pth"),
        ("Debenedetti2022Light_XCiT-S12", "cifar10", "debenedetti2022light-xcit-s-cifar10-linf.pth.tar"),
    ):
        with pytest.raises(OSError, match="cannot be downloaded") as caught:
            host.load_model(name, dataset=dataset)
        one_line(caught, str(tmp_path / "hub/checkpoints" / file), f"/{file} elsewhere and put it there")
    assert [path.name for path in tmp_path.rglob("*")] == ["hub"]


def test_a_download_is_looked_at_before_it_is_kept(zoo, tiny_net, images, tmp_path, monkeypatch):
    import gdown

    def answers(content):
        monkeypatch.setattr(gdown, "download", lambda id, output: Path(output).write_bytes(content))

    answers(b"<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(ValueError, match=r"models/cifar10/Linf/Tiny2026.pt is a web page"):
        host.load_model("Tiny2026")
    whole = put(tmp_path / "whole.pt", tiny_net.state_dict())
    answers(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"Tiny2026.pt is damaged"):
        host.load_model("Tiny2026")
    assert not (tmp_path / "models").exists()
    answers(whole.read_bytes())
    assert torch.equal(host.load_model("Tiny2026")(images[0]), tiny_net(images[0]))
    assert (tmp_path / "models/cifar10/Linf/Tiny2026.pt").exists()


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_bad_files_in_the_cache(zoo, tmp_path):
    path = tmp_path / "models/cifar10/Linf/Tiny2026.pt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "extra": Payload()}, path)
    with_code = path.read_bytes()
    for content, words in (
        (with_code, "holds code beside tensors"),
        (pickle.dumps(Payload(), 2), "holds code beside tensors"),
        (pickle.dumps(Payload(), 4), "is damaged or not of torch.save .Unsupported operand"),
        (b"\n<html>quota</html>", "is a web page"),
        (b"", "is damaged"),
        (with_code[:300], "is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            host.load_model("Tiny2026")
        one_line(caught, "models/cifar10/Linf/Tiny2026.pt")
    assert not (tmp_path / "executed").exists()
    put(path, {"0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"Tiny2026 does not take the weights in .*Tiny2026.pt") as caught:
        host.load_model("Tiny2026")
    one_line(caught, "Missing key")


def test_unknown_names(zoo):
    for call, words in (
        (("Wong2020Fats",), "no model 'Wong2020Fats'; nearest: Wong2020Fast"),
        (("Tiny2026", "m", "cifar-10"), "no dataset 'cifar-10'; nearest: cifar10, cifar100, imagenet"),
        (("Tiny2026", "m", "cifar10", "L1"), "no threat model 'L1'; nearest: Linf, L2"),
        (("Tiny2026", "m", "imagenet", "L2"), "no models for imagenet and 'L2'; choose one of Linf, corruptions"),
    ):
        with pytest.raises(ValueError, match="robustbench has no") as caught:
            host.load_model(*call)
        one_line(caught, words)
    zoo["Tiny2026"]["gdrive_id"] = None
    with pytest.raises(ValueError, match="Tiny2026 has no gdrive_id"):
        host.load_model("Tiny2026")


def test_architectures_need_no_network(zoo):
    assert {"Tiny2026", "Wong2020Fast", "Debenedetti2022Light_XCiT-S12"} <= set(host.available())
    assert "Standard" in host.available("cifar10", "L2")
    drawn = torch.get_rng_state()
    assert not host.architecture("Tiny2026").training
    with torch.device("meta"):
        for name, dataset in (("Standard_R50", "imagenet"), ("Debenedetti2022Light_XCiT-S12", "imagenet")):
            assert next(host.architecture(name, dataset).parameters()).is_meta
    zoo["Tiny2026"]["model"] = lambda: Pair([nn.Linear(torch.ones(2).cuda().numel(), 1)])  # as Bai2023Improving does
    host.architecture("Tiny2026")
    assert torch.equal(torch.get_rng_state(), drawn)
    sizes = {"Wong2020Fast": 288, "Salman2020Do_R18": 224}
    for name, size in sizes.items():
        shown = host.preprocessing_of(name, "imagenet")
        assert f"CenterCrop(size=({size}, {size}))" in str(shown)
    assert "ToTensor" in str(host.preprocessing_of("Tiny2026"))


# --- data


def archive(folder, kind, monkeypatch, count=20):
    """A small archive where torchvision's download goes, with checksums that fit."""
    made = folder / kind.base_folder
    made.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
    label = "labels" if kind.base_folder.endswith("py") else "fine_labels"
    fixed = []
    for name, _ in kind.test_list:
        (made / name).write_bytes(pickle.dumps({"data": pixels, label: [i % 10 for i in range(count)]}))
        fixed.append([name, md5((made / name).read_bytes()).hexdigest()])
    names = {kind.meta["key"]: [str(i) for i in range(10)]}
    (made / kind.meta["filename"]).write_bytes(pickle.dumps(names))
    monkeypatch.setattr(kind, "test_list", fixed)
    monkeypatch.setattr(kind, "train_list", [])
    monkeypatch.setattr(
        kind, "meta", {**kind.meta, "md5": md5((made / kind.meta["filename"]).read_bytes()).hexdigest()}
    )
    with tarfile.open(folder / kind.filename, "w:gz") as tar:
        tar.add(made, kind.base_folder)
    monkeypatch.setattr(kind, "tgz_md5", md5((folder / kind.filename).read_bytes()).hexdigest())
    shutil.rmtree(made)
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32)).float() / 255


def test_cifar_from_an_archive(monkeypatch, tmp_path):
    pixels = archive(tmp_path / "data", part("data").datasets.CIFAR10, monkeypatch)
    drawn = torch.get_rng_state()
    x, y = host.load_cifar10()
    torch.testing.assert_close(x, pixels)
    assert y.tolist() == [i % 10 for i in range(20)]
    x, y = host.load_cifar10(7, str(tmp_path / "data"))
    torch.testing.assert_close(x, pixels[:7])
    assert torch.equal(torch.get_rng_state(), drawn)
    for n_examples in (21, 0):
        with pytest.raises(ValueError, match=f"n_examples is {n_examples}; CIFAR10 has 20 test images"):
            host.load_cifar10(n_examples)
    shutil.rmtree(tmp_path / "data/cifar-10-batches-py")
    (tmp_path / "data/cifar-10-python.tar.gz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is damaged, its md5 is not"):
        host.load_cifar10()
    pixels = archive(tmp_path / "hundred", part("data").datasets.CIFAR100, monkeypatch)
    torch.testing.assert_close(host.load_cifar100(3, str(tmp_path / "hundred"))[0], pixels[:3])


def test_data_that_is_not_there(tmp_path):
    for load, words in (
        (host.load_cifar10, ["cifar-10-python.tar.gz into d", "https://"]),
        (host.load_cifar100, ["cifar-100-python.tar.gz into d"]),
        (host.load_cifar10c, ["d/CIFAR-10-C.tar is not there", "zenodo.org/records/2535967"]),
        (host.load_cifar100c, ["d/CIFAR-100-C.tar is not there", "zenodo.org/records/3555552"]),
        (host.load_imagenet, ["d/val is not there", "1000 class folders"]),
    ):
        with pytest.raises(OSError, match="is not there") as caught:
            load(5, data_dir="d")
        one_line(caught, *words)
    assert not (tmp_path / "d").exists()


def test_imagenet(tmp_path):
    from PIL import Image

    ids = Path(part("loaders").__file__).with_name("helper_files") / "imagenet_test_image_ids.txt"
    names = ids.read_text().splitlines()
    for name in names[:2]:
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 300), (255, 0, 0)).save(tmp_path / "val" / name)
    with pytest.raises(FileNotFoundError, match="has no folder of class n"):
        host.load_imagenet(2, str(tmp_path))
    for name in {name.split("/")[0] for name in names}:
        (tmp_path / "val" / name).mkdir(exist_ok=True)
    x, y = host.load_imagenet(2, str(tmp_path))
    assert x.shape == (2, 3, 224, 224)
    assert (y >= 0).all()
    with pytest.raises(FileNotFoundError, match="is one of the images RobustBench evaluates on"):
        host.load_imagenet(None, str(tmp_path))
    with pytest.raises(ValueError, match="n_examples is 5001; imagenet has 5000"):
        host.load_imagenet(5001, str(tmp_path))


def corrupted(folder, count=6):
    made = folder / "CIFAR-10-C"
    made.mkdir(parents=True)
    generator = np.random.default_rng(0)
    np.save(made / "labels.npy", np.tile(np.arange(count) % 10, 1))
    for name in part("data").CORRUPTIONS:
        np.save(made / f"{name}.npy", generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    return made


def test_corrupted_images(tmp_path):
    made = corrupted(tmp_path / "made")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data/CIFAR-10-C.tar", "w") as tar:
        tar.add(made, "CIFAR-10-C")
    x, y = host.load_cifar10c(4, severity=1, corruptions=["fog"], prepr=None)
    torch.testing.assert_close(x, torch.from_numpy(np.load(made / "fog.npy")[:4]).permute(0, 3, 1, 2).float() / 255)
    assert y.tolist() == [0, 1, 2, 3]
    assert len(host.load_cifar10c(None, severity=1)[0]) == 6 * 15
    for call, words in (
        ({"severity": 6}, "severity is 6; give 1 to 5"),
        ({"corruptions": ["fogg"]}, "no corruption 'fogg'; nearest: fog"),
        ({"severity": 1, "corruptions": ["fog"], "n_examples": 7}, "n_examples is 7; there are 6"),
    ):
        with pytest.raises(ValueError, match=words):
            host.load_cifar10c(**call)
    (tmp_path / "data/CIFAR-10-C/fog.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10-C/fog.npy is not there; remove"):
        host.load_cifar10c(4, severity=1)
    shutil.rmtree(tmp_path / "data/CIFAR-10-C")
    (tmp_path / "data/CIFAR-10-C.tar").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"CIFAR-10-C.tar is damaged"):
        host.load_cifar10c(4)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["CIFAR-10-C.tar"]


@pytest.mark.parametrize("strange", ["../fog.npy", "/tmp/fog.npy", "CIFAR-10-C/link"])
def test_archives_that_reach_elsewhere_are_refused(tmp_path, strange):
    made = corrupted(tmp_path / "made")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data/CIFAR-10-C.tar", "w") as tar:
        tar.add(made, "CIFAR-10-C")
        member = tarfile.TarInfo(strange)
        if strange.endswith("link"):
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ValueError, match=rf"CIFAR-10-C.tar is damaged \(it holds '{strange}', which is no file"):
        host.load_cifar10c(4)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["CIFAR-10-C.tar"]


# --- benchmark


@pytest.fixture
def quick(monkeypatch):
    """AutoAttack with its first member alone."""
    monkeypatch.setitem(autoattack.VERSIONS, "standard", ("apgd-ce",))


@pytest.fixture
def judged(tiny_net, images):
    x = images[0]
    y = tiny_net(x).argmax(1)
    y[0] = (y[0] + 1) % 10
    return x, y


AT = {"eps": 0.01, "batch_size": 3}


def test_benchmark_has_their_signature():
    theirs = inspect.signature(part("eval").benchmark).parameters
    ours = inspect.signature(host.benchmark).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        default = parameter.default
        assert ours[name].default == getattr(default, "value", default), name


def test_benchmark_on_their_data(quick, tiny_net, monkeypatch, tmp_path, capsys):
    pixels = archive(tmp_path / "data", part("data").datasets.CIFAR10, monkeypatch, 8)
    before = dict(vars(part("eval")))
    tiny_net.train()
    drawn, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    clean, robust = host.benchmark(tiny_net, 8, log_path="log", to_disk=True, model_name="Tiny", **AT)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (np.random.get_state()[1] == numbers).all()
    assert tiny_net.training
    assert all(p.requires_grad and p.grad is None for p in tiny_net.parameters())
    assert vars(part("eval")) == before
    y = torch.arange(8) % 10
    tiny_net.eval()
    assert clean == (tiny_net(pixels).argmax(1) == y).double().mean()
    adversarial = host.attacked(tiny_net, pixels, y, **AT)
    assert robust == (tiny_net(adversarial).argmax(1) == y).double().mean()
    assert "robust accuracy after APGD-CE" in (tmp_path / "log").read_text()
    assert "Clean accuracy" in capsys.readouterr().out
    assert (tmp_path / "model_info/cifar10/Linf/Tiny.json").exists()


def test_attacked_gives_the_images_of_autoattack(quick, tiny_net, judged, capsys):
    x, y = judged
    found = host.attacked(tiny_net, x, y, **AT, seed=4)
    expected = autoattack.standard(tiny_net, x, y, norm="Linf", eps=0.01, batch_size=3, seed=4)
    assert torch.equal(found, expected)
    broken = (found != x).flatten(1).any(1)
    assert broken.any()
    clean, robust = host.benchmark(tiny_net, images=judged, seed=4, **AT)
    assert clean == 7 / 8
    assert robust == pytest.approx(clean - broken.double().mean().item())
    assert capsys.readouterr().out.count("Clean accuracy") == 1  # of benchmark alone
    on_imagenet = host.attacked(tiny_net, x, y, dataset="imagenet", **AT, seed=4)
    assert torch.equal(on_imagenet, expected)
    with pytest.raises(ValueError, match="only 'Linf' and 'L2'"):
        host.attacked(tiny_net, x, y, threat_model="corruptions", **AT)


class Interrupted(Exception):
    pass


def test_benchmark_resumes(quick, tiny_net, judged, tmp_path):
    calls = [0, None]

    def answer(x):
        calls[0] += 1
        if calls[0] == calls[1]:
            raise Interrupted
        return tiny_net(x)

    expected = host.benchmark(answer, images=judged, **AT)
    whole, calls[:] = calls[0], [0, 250]
    before = dict(vars(part("eval")))
    with pytest.raises(Interrupted):
        host.benchmark(answer, images=judged, aa_state_path=tmp_path / "state", **AT)
    assert vars(part("eval")) == before
    calls[:] = [0, None]
    assert host.benchmark(answer, images=judged, aa_state_path=tmp_path / "state", **AT) == expected
    assert calls[0] < whole - 150
    calls[:] = [0, None]
    assert host.benchmark(answer, images=judged, aa_state_path=str(tmp_path / "state"), **AT) == expected
    assert calls[0] < 20
    with pytest.raises(ValueError, match=r"eps = 0.01, not 0.5"):
        host.benchmark(answer, images=judged, aa_state_path=tmp_path / "state", batch_size=3, eps=0.5)


def test_their_own_benchmark_works_too(quick, tiny_net, monkeypatch, tmp_path):
    """After `enable`, where no package `autoattack` is there."""
    for name in ("autoattack", "autoattack.state"):
        monkeypatch.setitem(sys.modules, name, None)
    again(monkeypatch)
    archive(tmp_path / "data", part("data").datasets.CIFAR10, monkeypatch, 8)
    theirs = part("eval").benchmark(tiny_net.eval(), 8, aa_state_path=tmp_path / "state", log_path="log", **AT)
    assert theirs == pytest.approx(host.benchmark(tiny_net, 8, **AT))


def test_corruptions(tiny_net, monkeypatch, tmp_path, capsys):
    archive(tmp_path / "data", part("data").datasets.CIFAR10, monkeypatch, 8)
    corrupted(tmp_path / "data")
    real = part("data").load_corruptions_cifar  # the small files hold severity 1 only

    def first(dataset, n, severity, *rest):
        return real(dataset, n, 1, *rest)

    monkeypatch.setattr(part("data"), "load_corruptions_cifar", first)
    names = part("data").CORRUPTIONS
    pixels = [np.load(tmp_path / f"data/CIFAR-10-C/{name}.npy") for name in names]
    x = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).float() / 255
    y = (torch.arange(6) % 10).repeat(len(names))
    ask = {"n_examples": 6, "threat_model": "corruptions"}
    _, found = host.benchmark(tiny_net, **ask)
    assert found == pytest.approx((tiny_net(x).argmax(1) == y).double().mean().item())
    assert not (tmp_path / "model_info").exists()
    host.benchmark(tiny_net, **ask, to_disk=True, model_name="Tiny")
    info = tmp_path / "model_info/cifar10/corruptions"
    assert '"corruptions_mce": "nan"' in (info / "Tiny.json").read_text()
    for name in ("AlexNet", "Tiny"):
        host.benchmark(tiny_net, **ask, to_disk=True, model_name=name)
    assert '"corruptions_mce": "100.0"' in (info / "Tiny.json").read_text()
    assert (info / "unaggregated_results.csv").read_text().count("Tiny") == 1


def test_calls_benchmark_refuses(tiny_net, judged):
    with pytest.raises(ValueError, match="eps is None; give the radius of the Linf ball"):
        host.benchmark(tiny_net, images=judged)
    with pytest.raises(ValueError, match="to_disk is True and model_name None"):
        host.benchmark(tiny_net, images=judged, eps=0.1, to_disk=True)
    with pytest.raises(NotImplementedError, match="one model on one device"):
        host.benchmark([tiny_net], images=judged, eps=0.1)
    with pytest.raises(ValueError, match="there are no images"):
        host.clean_accuracy(tiny_net, judged[0][:0], judged[1][:0])
    assert host.clean_accuracy(tiny_net.train(), *judged, batch_size=3) == 7 / 8
    assert tiny_net.training
