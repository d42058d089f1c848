"""Models with weights of one's own, in other precisions, low-rank, from torchvision and timm."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from art_lowrank.demo.digits import digits
from art_lowrank.demo.nets import FOLDER, built_in
from art_lowrank.evaluate.catalog.models import model_entry
from art_lowrank.evaluate.catalog.normalised import Normalised
from art_lowrank.evaluate.spec import parse

CPU, SMALL = torch.device("cpu"), "art_lowrank.demo.digits:small_net"


def loaded(text):
    return model_entry(parse(text), "models").load(CPU)


def agrees(model, other, x=None):
    x = digits()[1].x[:20] if x is None else x
    return torch.allclose(model(x), other(x), atol=1e-5)


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_a_checkpoint_of_tensors(tmp_path, nest):
    state = {f"module.{key}": value for key, value in built_in("standard").state_dict().items()}
    torch.save(state if nest is None else {nest: state, "epoch": 3}, tmp_path / "net.pt")
    assert agrees(loaded(f"{SMALL}[weights={tmp_path / 'net.pt'}]").model, built_in("standard"))


def test_low_rank_weights_make_low_rank_layers():
    found = loaded(f"{SMALL}[weights={FOLDER / 'low-rank.safetensors'}]")
    assert agrees(found.model, built_in("low-rank"))
    assert found.hash == loaded("digits:low-rank").hash


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": nn.Linear(2, 2)}, "more than tensors"),
        ({"a": torch.ones(2)}, "another architecture"),
        ([1, 2], "holds no state_dict"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path, content, words):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=words) as caught:
        loaded(f"{SMALL}[weights={tmp_path / 'net.pt'}]")
    assert "\n" not in str(caught.value)


def test_normalisation_is_applied_once():
    x = digits()[1].x[:20]
    found = loaded("digits:standard[mean=0.1,std=0.5,scale=2]").model
    assert torch.allclose(found(x), built_in("standard")((2 * x - 0.1) / 0.5), atol=1e-6)


def test_constants_of_another_number_of_channels_are_said():
    with pytest.raises(ValueError, match="mean has 2 numbers for images of 1 channels"):
        loaded("digits:standard[mean=[0.5,0.5]]").model(digits()[1].x[:2])


@pytest.mark.parametrize("dtype", ["half", "double", "bfloat16"])
def test_other_precisions_take_float32_images(write_model, dtype):
    found = loaded(write_model(load=f"return Net().{dtype}()"))
    x, y = digits()[1]
    logits = found.model(x[:100])
    assert logits.dtype == torch.float32
    assert float((logits.argmax(1) == y[:100]).float().mean()) > 0.9


def test_the_callers_net_is_left_alone(write_model):
    name = write_model(load="return NET", tail="NET = Net().train()")
    found = loaded(name)
    module = __import__(name.partition(":")[0])
    assert module.NET.training
    assert all(parameter.requires_grad for parameter in module.NET.parameters())
    assert not found.model.training


def test_torchvision_with_a_file_of_ones_own(tmp_path):
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    net = models.squeezenet1_1(num_classes=4).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = loaded(f"torchvision:squeezenet1_1[weights={tmp_path / 'net.safetensors'},num_classes=4]").model
    assert agrees(found, net, torch.rand(2, 3, 64, 64))


def test_timm_with_a_file_of_ones_own(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model("resnet10t", num_classes=4).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = loaded(f"timm:resnet10t[weights={tmp_path / 'net.safetensors'},num_classes=4]").model
    assert isinstance(found, Normalised)
    assert agrees(found.model, net, torch.rand(2, 3, 64, 64))
