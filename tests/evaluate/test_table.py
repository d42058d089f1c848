"""The table says what makes its numbers doubtful, on every row it concerns, and shows curves whole."""

from __future__ import annotations

import pytest

from art_lowrank.evaluate import plan_of
from art_lowrank.evaluate.rows import rows_of, with_worst
from art_lowrank.evaluate.run import evaluate
from art_lowrank.evaluate.table import lines

QUICK = ["lowrank-pgd[rank=1,steps=3]", "art:ProjectedGradientDescent[max_iter=2]"]


@pytest.fixture
def shown(tmp_path):
    def show(**given):
        plan = plan_of({"models": ["digits:standard"], "attacks": QUICK, "images": 40, "slice": 20, **given})
        found = evaluate(plan, tmp_path / "out", verbose=False)
        rows = rows_of(found.cells, found.records)
        return rows, "\n".join(lines(rows))

    return show


def test_a_curve_is_shown_at_every_value(shown):
    rows, text = shown(attacks=["rank-curve[steps=4]", "eps-curve[eps=[8/255,0.5],rank=1,steps=4]"])
    ranks, radii = rows[1].curve, rows[2].curve
    assert [value for value, _ in ranks] == [1, 2, 4, 8]
    assert rows[0].accuracy.value >= ranks[0][1] >= ranks[-1][1] == rows[1].accuracy.value
    assert radii[0][1] > radii[1][1] == rows[2].accuracy.value
    assert "at rank 1: " in text
    assert f"at eps 8/255: {100 * radii[0][1]:.1f} %, 0.5: " in text


def test_a_randomised_model_is_doubted_on_all_of_its_rows(shown, write_model):
    model = write_model("return self.net(x) + 0.5 * torch.randn(len(x), 10)")
    rows, text = shown(models=[model])
    assert all("randomised" in row.doubts for row in with_worst(rows))
    assert text.count("randomised") == len(list(with_worst(rows))) + 1
    assert "include chance" in text


def test_hidden_gradients_are_seen_without_our_attack(shown, write_model):
    model = write_model("return self.net((x * 16).round() / 16)")
    rows, text = shown(models=[model], attacks=QUICK[1:])
    (doubt,) = rows[1].doubts
    assert doubt == "no gradient on 32 of 32"  # 16 a slice
    assert "prove nothing" in text


def test_a_sound_model_gets_no_remark(shown):
    rows, text = shown()
    assert not any((*row.doubts, *row.notes) for row in rows)
    assert "chance" not in text


def test_attacks_on_a_failed_model_are_not_rows(shown, write_model):
    _, text = shown(models=[write_model("raise RuntimeError('no such layer ' * 40)"), "digits:standard"])
    assert text.count("no such layer") > 1
    assert text.count("failed: RuntimeError") == 1
    assert len(max(text.splitlines(), key=len)) < 300
    assert text.count("lowrank-pgd[power,rank=1,steps=3]") == 1


def test_a_model_that_is_never_right_is_said(shown, write_model):
    _, text = shown(models=[write_model("return -self.net(x) * (self.net(x) == self.net(x).amax(1, keepdim=True))")])
    assert "no image is right" in text
    assert "art-lowrank doctor" in text


def test_counts_are_added_up_over_slices(shown):
    rows, _ = shown(attacks=["art:DeepFool[max_iter=20,epsilon=0.5]"], eps=0.05)
    (note,) = rows[1].notes
    count, words = note.split(" ", 1)
    assert words == "broken outside the ball"
    assert int(count) > 20  # of 40 in two slices
