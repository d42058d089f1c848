"""Every flag fires on what it is for, beside the number it doubts, and is silent otherwise."""

from __future__ import annotations

import pytest

from art_lowrank.evaluate import evaluate, plan_of
from art_lowrank.evaluate.report.order import ENSEMBLE, ITERATIVE, LOW_RANK, ONE_STEP, variant_of
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.rows import Row

L2 = "L2 0.5"
FGSM, PGD, APGD = "torchattacks:FGSM", "torchattacks:PGDL2[steps=20]", "autoattack"


def test_a_sound_evaluation_has_no_flag(kinds, held):
    attacks = {"lowrank-pgd[rank=1]": held(0.6), "lowrank-pgd[rank=full]": held(0.5), PGD: held(0.51), APGD: held(0.5)}
    assert kinds(attacks) == {}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"doubts": ["randomised"]}, "randomised"),
        ({"doubts": ["probabilities"]}, "probabilities"),
        ({"doubts": ["dynamic"]}, "dynamic"),
        ({"doubts": ["constant"]}, "constant"),
        ({"zero_gradients": 3, "gradients_looked_at": 16}, "no gradient"),
    ],
)
def test_of_a_model(kinds, held, values, kind):
    assert kinds({PGD: held(0.5)}, **values) == {("clean", ""): [kind]}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"outside": 2}, "broken outside the ball"),
        ({"unreadable": 1}, "with NaN logits"),
        ({"dead": [True] + 199 * [False]}, "without gradient"),
        ({"distance_max": 0.51}, "over the budget"),
        ({"distance_max": 0.44}, "budget not used"),
    ],
)
def test_of_an_attack(kinds, held, values, kind):
    assert kinds({PGD: {"robust": held(0.5), **values}}) == {(PGD, L2): [kind]}


def test_a_radius_that_is_almost_reached_is_used(kinds, held):
    assert kinds({PGD: {"robust": held(0.5), "distance_max": 0.46}}) == {}
    assert kinds({PGD: {"robust": held(0.0), "distance_max": 0.1}}, out="all broken") == {}


@pytest.mark.parametrize(("weak", "strong", "along"), [
    ("lowrank-pgd[rank=1]", "lowrank-pgd[rank=2]", "rank"),
    ("lowrank-pgd[rank=2]", "lowrank-pgd[rank=full]", "rank"),
    ("art:ProjectedGradientDescent[max_iter=5]", "art:ProjectedGradientDescent[max_iter=40]", "steps"),
    ("torchattacks:PGDL2[steps=5]", PGD, "steps"),
])  # fmt: skip
def test_more_must_not_break_less(kinds, held, weak, strong, along):
    assert kinds({weak: held(0.5), strong: held(0.6)}) == {(strong, L2): [f"not monotone in {along}"]}
    assert kinds({weak: held(0.6), strong: held(0.5)}, out="right") == {}
    assert kinds({weak: held(0.5), strong: held(0.51)}, out="noise") == {}  # 2 images against none: p = 0.5


def test_attacks_that_differ_in_two_things_are_not_compared(kinds, held):
    assert kinds({"lowrank-pgd[rank=1,steps=40]": held(0.5), "lowrank-pgd[rank=2,steps=5]": held(0.6)}) == {}


def test_monotone_in_eps_between_evaluations_of_one_folder(folder, held):
    for eps, share in ((0.25, 0.5), (0.5, 0.6)):
        path = folder({PGD: held(share)}, eps=eps)
    flags = summary_of(path).flags
    (flag,) = next(found for row, found in flags.items() if row.threat == L2)
    assert flag.kind == "not monotone in eps"
    assert "20 of 200 images more hold" in flag.seen
    assert "L2 0.25" in flag.seen
    assert not any(found for row, found in flags.items() if row.threat != L2)


@pytest.mark.parametrize(("weak", "strong"), [
    (FGSM, PGD), (FGSM, APGD), ("art:SquareAttack", PGD), (PGD, APGD), ("lowrank-pgd[rank=1]", APGD),
    ("torchattacks:PGDL2[steps=3]", "rank-curve"), (PGD, "torchattacks:AutoAttack"),
])  # fmt: skip
def test_a_strong_attack_weaker_than_a_weak_one(kinds, held, weak, strong):
    assert kinds({weak: held(0.5), strong: held(0.6)})[strong, L2] == ["weaker than a weaker attack"]
    assert kinds({weak: held(0.6), strong: held(0.5)}, out="right") == {}


@pytest.mark.parametrize(
    ("one", "other"), [(FGSM, "lowrank-pgd[rank=1]"), (PGD, "torchattacks:APGD"), ("lowrank-pgd[rank=4]", PGD)]
)
def test_attacks_without_an_order(kinds, held, one, other):
    assert kinds({one: held(0.5), other: held(0.6)}) == {}
    assert kinds({one: held(0.6), other: held(0.5)}, out="other") == {}


@pytest.mark.parametrize(("attack", "level"), [
    ("torchattacks:FFGSM", ONE_STEP), ("torchattacks:GN", ONE_STEP), ("art:FastGradientMethod", ONE_STEP),
    ("torchattacks:MIFGSM", ITERATIVE), ("art:BasicIterativeMethod", ITERATIVE), ("apgd-ce", ITERATIVE),
    ("square", ONE_STEP), ("autoattack", ENSEMBLE), ("autoattack[members=[square]]", ITERATIVE),
    ("robustbench:benchmark", ENSEMBLE), ("lowrank-pgd", LOW_RANK), ("rank-curve", ITERATIVE),
    ("rank-curve[ranks=[1,2]]", LOW_RANK), ("eps-curve[eps=[1,2]]", LOW_RANK), ("no [ spec", ITERATIVE),
])  # fmt: skip
def test_how_strong_a_kind_is(attack, level, held):
    assert variant_of(Row("m", "d", attack, L2, 0, held(1.0))).level == level


@pytest.mark.parametrize(("attacks", "seen"), [
    ({"lowrank-pgd[rank=1]": 0.6, "lora-pgd[rank=2]": 0.5}, "all 2 runs are of low rank"),
    ({FGSM: 0.6}, "all 1 runs are weak"),
    ({FGSM: 0.6, "lowrank-pgd[rank=1]": 0.5}, "all 2 runs are weak"),
    ({PGD: 0.6, "lowrank-pgd[rank=1]": 0.5}, None),
    ({"rank-curve": 0.6}, None),
])  # fmt: skip
def test_a_worst_case_over_weak_attacks(folder, held, attacks, seen):
    summary = summary_of(folder({attack: held(share) for attack, share in attacks.items()}))
    flags = [flag.seen for flag in summary.doubts(summary.entries[0]) if flag.kind == "no strong attack"]
    assert flags == ([seen] if seen else [])


def test_what_failed_is_a_doubt(folder, held):
    path = folder({PGD: held(0.5), APGD: {"robust": held(0.5), "error": "out of luck"}})
    summary = summary_of(path)
    (flag,) = summary.doubts(summary.entries[0])
    assert (flag.kind, flag.text) == ("failed", "failed: out of luck")
    assert summary.warnings == ["FAILED: 1 of 3 cells, see the marks"]


def test_what_is_not_finished_is_a_doubt(tmp_path):
    asked = {"models": ["digits:standard", "digits:low-rank"], "attacks": ["lowrank-pgd[rank=full,steps=2]"]}
    evaluate(plan_of({**asked, "images": 20, "slice": 10}), tmp_path, verbose=False)
    assert not summary_of(tmp_path).missing
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(lines[:3]))  # killed: the first model's second slice is half done
    summary = summary_of(tmp_path)
    assert summary.warnings == ["NOT FINISHED: 5 cells that were asked for are not there yet"]
    (entry,) = summary.entries
    assert next(iter(summary.doubts(entry))).text == "1 of its cells are not finished"
    evaluate(plan_of({**asked, "images": 20, "slice": 10}), tmp_path, verbose=False)
    assert not summary_of(tmp_path).missing
    assert len(list((tmp_path / "asked").iterdir())) == 1


def test_survivors_are_not_compared(kinds, held):
    attacks = {FGSM: held(0.5), PGD: {"robust": held(0.5), "attacked": held(0.5)}}
    assert kinds(attacks, survivors=True) == {}


@pytest.mark.parametrize(("shares", "fires"), [
    ((0.6, 0.4, 0.4), True),  # fell, and stays while eps doubles
    ((0.6, 0.4, 0.2), False),
    ((1.0, 1.0, 1.0), False),  # so small that nothing is broken yet
    ((0.5, 0.05, 0.05), False),  # broken down to chance
])  # fmt: skip
def test_plateau_between_radii(folder, held, shares, fires):
    for eps, share in zip((0.25, 0.5, 1.0), shares, strict=True):
        path = folder({PGD: held(share)}, eps=eps)
    found = {row.threat: [flag.kind for flag in flags] for row, flags in summary_of(path).flags.items() if flags}
    assert found == ({"L2 1": ["plateau"]} if fires else {})


@pytest.mark.parametrize("flat", [True, False])
def test_plateau_inside_a_curve(kinds, held, flat):
    attack = "eps-curve[eps=[0.1,0.2,0.5]]"
    breaking = [0.1] * 100 + [None] * 100 if flat else [0.1] * 60 + [0.2] * 60 + [0.5] * 20 + [None] * 60
    robust = [at is None for at in breaking]
    values = {"robust": robust, "breaking": breaking, "values": [0.1, 0.2, 0.5], "along": "eps"}
    assert kinds({attack: values}) == ({(attack, L2): ["plateau"]} if flat else {})


@pytest.mark.parametrize(("eps", "share", "attack", "fires"), [
    (4.0, 0.3, PGD, True),  # 0.5 * sqrt(64): every image may become grey
    (4.0, 0.1, PGD, False), (3.9, 0.3, PGD, False), (4.0, 0.3, "lowrank-pgd[rank=1]", False),
])  # fmt: skip
def test_where_all_is_allowed_nothing_may_hold(kinds, held, eps, share, attack, fires):
    found = kinds({attack: held(share)}, eps=eps, shape=[1, 8, 8])
    assert found == ({(attack, f"L2 {eps:g}"): ["more than chance where all is allowed"]} if fires else {})


def test_other_images_are_kept_out_of_the_worst_case_and_said(folder, held):
    folder({PGD: held(0.1, 100)}, clean=held(1.0, 100))
    path = folder({APGD: held(0.5)})
    summary = summary_of(path)
    (entry,) = summary.entries
    assert entry.worst.accuracy.value == 0.5
    assert [flag.kind for flag in summary.doubts(entry)] == ["other images"]


def test_versions_that_changed_in_the_middle(folder, held):
    path = folder({PGD: held(0.5)}, size=100)
    assert not summary_of(path).doubts(summary_of(path).entries[0])
    lines = (path / "records.jsonl").read_text().splitlines(keepends=True)
    (path / "records.jsonl").write_text("".join([*lines[:3], lines[3].replace("2.15.0", "2.16.0")]))
    summary = summary_of(path)
    (flag,) = summary.doubts(summary.entries[0])
    assert (flag.kind, flag.seen) == ("several versions", "torch changed between its cells")


def test_on_real_models(write_model, tmp_path):
    """Gradients that are hidden, and answers that are optimised, are seen by a real evaluation."""
    hidden = write_model("return self.net((x * 16).round() / 16)")
    grad = "import torch\nwith torch.enable_grad():\n    z = x.detach().clone().requires_grad_()\n"
    optimised = write_model(
        grad + "    step, = torch.autograd.grad(self.net(z).logsumexp(1).sum(), z)\nreturn self.net(x + 0 * step)"
    )
    plan = plan_of(
        {"models": [hidden, optimised, "digits:standard"], "attacks": ["lowrank-pgd[rank=1,steps=3]"], "images": 40}
    )
    evaluate(plan, tmp_path / "out", verbose=False)
    summary = summary_of(tmp_path / "out")
    found = {entry.model: [flag.kind for flag in summary.doubts(entry)] for entry in summary.entries}
    assert found[hidden][0] == "no gradient"
    assert "without gradient" in found[hidden]
    assert found[optimised] == ["dynamic", "no strong attack"]
    assert found["digits:standard"] == ["no strong attack"]
