"""Warm starts on a GPU: the store stays on the host, and what is trained on is what the CPU would train on."""

from __future__ import annotations

import copy

import pytest
import torch

from art_lowrank.training import PerturbationStore, WarmStart, warm_started
from art_lowrank.training.moves import Moves

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("settings", [WarmStart(1), WarmStart("full"), WarmStart(1, low_rank=True), WarmStart(1, 0)])
def test_same_images_as_on_the_cpu(digits_net, test_digits, settings):
    x, y = test_digits
    moves = Moves.random(len(x), (8, 8), torch.Generator().manual_seed(0), padding=1)
    found = {}
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(digits_net).to(device)
        store = PerturbationStore(len(x), (1, 8, 8), settings.rank)
        for _ in range(3):
            batch = (moves.images(x, (8, 8)).to(device), y.to(device), torch.arange(len(x)), moves)
            for images, labels in warm_started(model, [batch], store, eps=0.5, settings=settings):
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                found[device] = images.detach().cpu()
    assert torch.allclose(found["cpu"], found["cuda"], atol=5e-3)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_trains_about_the_same(digits_net, test_digits, name):
    from art_lowrank.training.learner import Learner
    from art_lowrank.training.loop import Course, shuffled, train
    from art_lowrank.training.objectives import Objective
    from art_lowrank.training.precision import precision_of

    (x, y), losses = test_digits, {}
    for precision in ("float32", name):
        model = copy.deepcopy(digits_net).to("cuda")
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        learner = Learner(model, model, optimizer, Objective(), precision=precision_of(precision, "cuda"))
        history = train(learner, shuffled(x, y, 50, 0, torch.device("cuda")), Course(2, verbose=False))
        losses[precision] = history[-1]["loss"]
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses[name] == pytest.approx(losses["float32"], rel=0.1)
