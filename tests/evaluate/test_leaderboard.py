"""RobustBench's files: their keys, numbers that can be recomputed from the tensor, published numbers beside them."""

from __future__ import annotations

import json

import pytest
import torch

from art_lowrank.demo.digits import digits
from art_lowrank.demo.nets import built_in
from art_lowrank.evaluate import Plan, evaluate
from art_lowrank.evaluate.leaderboard import KEYS, write_leaderboard
from art_lowrank.evaluate.published import published
from art_lowrank.evaluate.table import rows_of

ATTACKS = ("lowrank-pgd[rank=1,steps=3]", "lowrank-pgd[rank=full,steps=5]", "lowrank-pgd[steps=3,norm=inf,eps=0.1]")


@pytest.mark.parametrize("survivors", [False, True])
def test_accuracy_can_be_recomputed_from_the_tensor(tmp_path, survivors):
    plan = Plan(models=["digits:standard"], attacks=ATTACKS, images=90, slice=40, survivors=survivors)
    paths = list(write_leaderboard(evaluate(plan, tmp_path, verbose=False), tmp_path))
    assert [str(path.relative_to(tmp_path / "leaderboard")) for path in paths] == [
        "digits/L2/digits_standard.json",
        "digits/Linf/digits_standard.json",
    ]
    (x, y), net = digits()[1], built_in("standard")
    for path, norm, eps in ((paths[0], 2, 0.5), (paths[1], float("inf"), 0.1)):
        info = json.loads(path.read_text())
        assert tuple(info)[: len(KEYS)] == KEYS
        moved = torch.load(path.with_suffix(".pt"), weights_only=True)
        assert moved.shape == (90, 1, 8, 8)
        assert float((moved - x[:90]).flatten(1).norm(norm, dim=1).max()) <= eps + 1e-5
        share = float((net(moved).argmax(1) == y[:90]).double().mean())
        assert info["external"] == f"{100 * share:.2f}"
        assert info["autoattack_acc"] is None
        assert info["clean_acc"] == f"{100 * float((net(x[:90]).argmax(1) == y[:90]).double().mean()):.2f}"
        assert info["art_lowrank"]["worst_case"][0] == pytest.approx(share)


def test_two_radii_of_a_norm_are_two_files(tmp_path):
    plan = Plan(models=["digits:standard"], attacks=[*ATTACKS, "lowrank-pgd[eps=8/255,steps=2]"], images=20)
    paths = list(write_leaderboard(evaluate(plan, tmp_path, verbose=False), tmp_path))
    names = [path.name for path in paths]
    assert names == ["digits_standard_eps-0.5.json", "digits_standard.json", "digits_standard_eps-8_255.json"]
    assert [json.loads(path.read_text())["eps"] for path in paths] == ["0.5", "0.1", "8/255"]
    assert len(list(tmp_path.rglob("*.pt"))) == 3


def test_survivors_are_of_one_ball_whoever_attacks(tmp_path):
    attacks = ["lowrank-pgd[rank=1,steps=2]", "art:ProjectedGradientDescent[max_iter=2]", "rank-curve[steps=2]"]
    plan = Plan(models=["digits:standard"], attacks=[*attacks, ATTACKS[2]], images=30, survivors=True)
    found = evaluate(plan, tmp_path, verbose=False)
    assert [row.after for row in rows_of(found.cells, found.records)] == [0, 0, 1, 2, 0]


def test_images_that_were_not_kept_are_said(tmp_path):
    plan = Plan(models=["digits:standard"], attacks=ATTACKS[:1], images=40, keep_images=False)
    found = evaluate(plan, tmp_path, verbose=False)
    with pytest.raises(ValueError, match="without --no-images"):
        list(write_leaderboard(found, tmp_path))


@pytest.mark.parametrize(
    ("model", "eps", "clean", "autoattack"),
    [
        ("cifar10/L2/Standard", "0.5", 94.78, 0.0),
        ("cifar10/L2/Wang2023Better_WRN-28-10", "0.5", 95.16, 83.68),
        ("cifar10/L2/Rice2020Overfitting", "0.5", 88.67, 67.68),
        ("imagenet/Linf/Standard_R50", "4/255", 76.52, 0.0),
        ("imagenet/Linf/Salman2020Do_R50", "4/255", 64.02, 34.96),
    ],
)
def test_the_published_anchors(model, eps, clean, autoattack):
    card = published(f"robustbench:{model}")
    assert (card.eps, card.clean, card.autoattack) == (eps, clean, autoattack)


def test_no_card_for_models_of_ones_own():
    assert published("digits:standard") is None
