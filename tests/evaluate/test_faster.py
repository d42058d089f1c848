"""Half precision and memory format: what they change, and what they must not."""

from __future__ import annotations

import pytest
import torch

from art_lowrank.evaluate.catalog.attacks import attack_entry
from art_lowrank.evaluate.plan import plan_of
from art_lowrank.evaluate.run import bench_of
from art_lowrank.evaluate.spec import parse

PGD = "art:ProjectedGradientDescent[max_iter=5,eps_step=0.1]"
ALL = ("lowrank-pgd[rank=1,steps=5]", "lora-pgd[rank=2,steps=5]", "rank-curve[steps=5]", PGD)


def test_half_precision_is_part_of_what_is_asked(plan, run):
    low, full = run(out="low", attacks=ALL, precision="bf16"), run(out="full", attacks=ALL)
    names = [record.attack for record in low if record.attack != "clean"]
    assert all("precision=bf16" in name for name in names)
    ids = {record.settings["cell"] for record in low} & {record.settings["cell"] for record in full}
    assert ids == {record.settings["cell"] for record in full if record.attack == "clean"}
    for a, b in zip(low, full, strict=True):
        assert abs(a.values["right"] - b.values["right"]) <= 2
        assert a.values["distance_max"] <= 0.5 * (1 + 1e-5) if a.attack != "clean" else True


def test_an_attack_may_say_its_own(run):
    _, own, other = run(attacks=[PGD.replace("]", ",precision=float32]"), ALL[0]], precision="bf16", slice=40)
    assert own.attack == PGD
    assert own.settings["meant"]["attack"]["spec"] == parse(PGD).identity
    assert other.attack == "lowrank-pgd[power,rank=1,steps=5,precision=bf16]"


def test_the_model_of_a_host_is_under_autocast_and_its_logits_are_not(write_model, run):
    forward = "import torch\nself.seen.append((torch.is_autocast_enabled('cpu'), x.dtype))\nreturn self.net(x)"
    tail = "Net.seen = []"
    model = write_model(forward, tail=tail)
    records = run(models=[model], attacks=[PGD.replace("]", ",precision=bf16]")], slice=40)
    seen = __import__(model.partition(":")[0]).Net.seen
    assert {on for on, _ in seen} == {True, False}  # searched in half precision, judged without
    assert {kind for _, kind in seen} == {torch.float32}
    assert records[1].values["forwards"] > 0  # counted all the same
    assert records[1].values["gradients"] > 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plan_of({"precision": "fp16"}), "precision is 'fp16'; give float32 or bf16"),
        (lambda: plan_of({"precision": 16}), "precision is 16"),
        (lambda: plan_of({"channels_last": 1}), "channels_last is 1; give true or false"),
        (lambda: attack_entry(parse("art:DeepFool[precision=fp16]"), "L2", 0.5), "it takes float32 or bf16"),
        (lambda: attack_entry(parse("lowrank-pgd[precision=8]"), "L2", 0.5), "precision is a int"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_channels_last_changes_the_memory_and_not_the_model(plan, write_model, run):
    layers = "nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10)"
    load = f"torch.manual_seed(0)\nreturn nn.Sequential({layers})"
    model = write_model(load=load)
    last, usual = (bench_of(plan(channels_last=wanted, models=[model])).subject(model) for wanted in (True, False))
    assert last.model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not usual.model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert last.hash == usual.hash
    for a, b in zip(run(out="last", channels_last=True), run(out="usual"), strict=True):
        assert a.settings == b.settings
        assert abs(a.values["right"] - b.values["right"]) <= 1
