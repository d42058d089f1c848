"""What a record says is what one finds oneself: accuracy, flags, costs, images and factors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from art_lowrank.attack import Factors, lowrank_pgd
from art_lowrank.demo.digits import digits
from art_lowrank.demo.nets import built_in
from art_lowrank.evaluate import evaluate
from art_lowrank.evaluate.cell import as_bytes
from art_lowrank.evaluate.table import rows_of, with_worst
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import unpack

ART = "art:ProjectedGradientDescent[max_iter=4,eps_step=0.2]"
RANDOM = "art:ProjectedGradientDescent[max_iter=1,eps_step=0.01,num_random_init=1]"


def flags(record, name="robust"):
    return torch.tensor(unpack(record.values[name], record.n))


def labels(start, stop):
    return digits()[1].y[start:stop]


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("lowrank-pgd[rank=1,steps=5,restarts=2]", {"rank": 1, "early_stop": True, "restarts": 2}),
        ("lora-pgd[rank=2,steps=5]", {"rank": 2, "method": "paper"}),
        ("lowrank-pgd[rank=full,steps=5,norm=inf,eps=8/255]", {"norm": np.inf, "eps": 8 / 255, "early_stop": True}),
        ("lowrank-pgd[rank=2,steps=5,norm=nuc]", {"rank": 2, "norm": "nuc", "early_stop": True}),
    ],
)
def test_ours_does_what_it_does_when_called_by_hand(run, attack, options):
    clean, attacked = run(images=30, slice=30, attacks=[attack], seeds=[3])
    net, (x, y) = built_in("standard"), (part[:30] for part in digits()[1])
    right = net(x).argmax(1) == y
    result = lowrank_pgd(net, x[right], y[right], steps=5, seed=3, **{"eps": 0.5, **options})
    held = right.clone()
    held[right] = ~result.success
    assert (flags(clean) == right).all()
    assert (flags(attacked, "attacked") == right).all()
    assert (flags(attacked) == held).all()
    assert (clean.values["right"], attacked.values["right"]) == (int(right.sum()), int(held.sum()))
    assert 0 < held.sum() < right.sum()
    assert attacked.values["gradients"] == int(result.queries.gradients.sum())
    assert attacked.values["forwards"] == int(result.queries.forwards.sum())


def test_costs_of_art_are_its_steps(run):
    clean, attacked = run(images=20, attacks=[ART])
    assert attacked.values["gradients"] == 4 * clean.values["right"]
    assert clean.values["gradients"] == clean.values["gradients_looked_at"] == 16
    assert clean.values["zero_gradients"] == 0


@pytest.mark.parametrize("attack", [ART, *("lowrank-pgd[rank=2,steps=4]", "lowrank-pgd[norm=inf,eps=0.1,steps=3]")])
def test_costs_and_outcomes_do_not_depend_on_the_batch(run, attack):
    small, large = (run(out=f"{size}", images=40, slice=40, attacks=[attack], batch_size=size)[1] for size in (7, 128))
    for name in ("robust", "gradients", "forwards"):
        assert small.values[name] == large.values[name]


@pytest.fixture
def grey(tmp_path):
    """Forty digits in grey, so that no perturbation meets the box, as an .npz file; and the images."""
    x, y = (part[:40] for part in digits()[1])
    np.savez(tmp_path / "grey.npz", x=0.3 + 0.4 * x, y=y)
    return str(tmp_path / "grey.npz"), 0.3 + 0.4 * x


def test_kept_images_are_allowed_and_give_the_recorded_outcome_and_so_do_their_factors(run, grey, tmp_path):
    net, (data, x) = built_in("standard"), grey
    records = run(data=[data], attacks=["lowrank-pgd[rank=1,steps=5]", "lora-pgd[rank=1,steps=5]", ART], eps=0.2)
    for record in records:
        if record.attack == "clean":
            continue
        part = slice(record.settings["start"], record.settings["stop"])
        kept = load_file(tmp_path / "out" / "images" / f"{record.settings['cell']}.safetensors")
        rows, held = kept["rows"], torch.zeros(record.n, dtype=torch.bool)
        held[rows] = net(kept["x"]).argmax(1) == labels(part.start, part.stop)[rows]
        assert (held == flags(record)).all()
        assert Threat("L2", 0.2).allows(x[part][rows], kept["x"]).all()
        assert ("left" in kept) == (not record.attack.startswith("art:"))
        if "left" in kept:
            exact = flags(record, "rank_held")
            applied = Factors(kept["left"], kept["right"]).apply(x[part][rows])
            assert (exact == flags(record, "attacked")).all()
            assert torch.allclose(applied, kept["x"], atol=1e-6)
    assert any(len(rows) < 20 for rows in [flags(record, "attacked").nonzero() for record in records[1:4]])


def test_survivors_only_see_what_is_left(run, plan, tmp_path):
    records = run(out="survivors", survivors=True)
    alone = run(out="alone")
    for start in (0, 3):
        clean, first, second = records[start : start + 3]
        assert (flags(first, "attacked") == flags(clean)).all()
        assert (flags(second, "attacked") == flags(first)).all()
        assert not (flags(second) & ~flags(first)).any()
        assert second.values["gradients"] < alone[start + 2].values["gradients"]
    evaluation = evaluate(plan(), tmp_path / "alone", verbose=False)
    *_, first, second, worst = with_worst(rows_of(evaluation.cells, evaluation.records))
    assert worst.attack == "worst of 2"
    assert (worst.robust == first.robust & second.robust).all()
    assert len(worst.robust) == 40


def test_nothing_is_left_to_attack_where_every_image_is_wrong(run, write_model):
    model = write_model("return -self.net(x)")
    attacks = ["lowrank-pgd[steps=1]", ART, "rank-curve[steps=2]", "lowrank-pgd[norm=nuc,steps=1]"]
    for record in run(models=[model], images=20, attacks=attacks):
        assert record.values["status"] == "done"
        assert (record.values["right"], record.values["gradients"]) == (0, 0)


@pytest.mark.parametrize("attack", [RANDOM, "lora-pgd[rank=1,steps=2]"])
def test_a_seed_gives_the_same_again_and_another_seed_something_else(run, attack):
    both = [run(out=out, images=20, attacks=[attack], seeds=[0, 1]) for out in ("one", "two")]
    (_, first, second), (_, again, _) = both
    assert first.values == again.values
    assert first.values["images"] != second.values["images"]


def test_global_random_states_are_left_alone_and_do_not_matter(run):
    run(out="one", images=20, attacks=[RANDOM, ART])
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    records = run(out="two", images=20, attacks=[RANDOM, ART, "lora-pgd[rank=1,steps=2]"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    again = run(out="one", images=20, attacks=[RANDOM, ART])
    assert [record.values for record in records[:3]] == [record.values for record in again]


def test_a_callers_own_net_keeps_mode_and_gradients(run, write_model):
    model = write_model(load="return NET", tail="NET = Net().train()")
    module = __import__(model.partition(":")[0])
    module.NET.net[0].eval()
    records = run(models=[model], images=20)
    assert [record.values["status"] for record in records] == ["done"] * 3
    assert module.NET.training
    assert not module.NET.net[0].training
    assert all(parameter.requires_grad for parameter in module.NET.parameters())


def test_a_model_that_changes_its_input_does_not_spoil_the_images_of_others(run, write_model):
    spoiler = write_model("x.mul_(0.5)\nreturn self.net(x.mul(2))")
    both = run(models=[spoiler, "digits:standard"], images=20)
    alone = run(out="alone", images=20)
    assert both[0].values["right"] == alone[0].values["right"]
    assert [record.values for record in both[3:]] == [record.values for record in alone]


def test_clean_images_are_kept_as_bytes_where_that_loses_nothing():
    every = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16) / 255
    assert as_bytes(every).dtype == torch.uint8
    assert torch.equal(as_bytes(every).float() / 255, every)
    for other in (every / 2, every.nextafter(torch.ones(1)), torch.tensor([[[[2.0]]]])):
        assert torch.equal(as_bytes(other), other)


def test_clean_images_labels_and_answers_are_kept(run, tmp_path):
    clean, *_ = run()
    kept = load_file(tmp_path / "out" / "images" / f"{clean.settings['cell']}.safetensors")
    test = digits()[1]
    assert torch.equal(kept["x"], test.x[:20])  # sixteenths are no bytes
    assert torch.equal(kept["y"], test.y[:20])
    assert int((kept["said"] == kept["y"]).sum()) == clean.values["right"]
