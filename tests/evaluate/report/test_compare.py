"""Two folders side by side: what is worse for sure, what is noise, what cannot be compared."""

from __future__ import annotations

import pytest

from art_lowrank.evaluate.report.compare import compared
from art_lowrank.evaluate.report.summary import summary_of

PGD, RANK1 = "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]"


@pytest.fixture
def verdicts(folder):
    """By what is compared the verdict and the change, of one model before and now."""

    def of(before, now, there=None, here=None):
        old = summary_of(folder(before, out="before", **(there or {})))
        found = compared(summary_of(folder(now, out="now", **(here or {}))), old)
        return {change.what: change for change in found.changes}, found

    return of


def test_worse_better_noise_and_the_same(verdicts, held):
    before = {PGD: held(0.5), RANK1: held(0.6), "apgd-ce": held(0.5), "apgd-t": held(0.4)}
    now = {PGD: held(0.4), RANK1: held(0.7), "apgd-ce": held(0.49), "apgd-t": held(0.4)}
    changes, found = verdicts(before, now)
    assert {what: change.verdict for what, change in changes.items()} == {
        "clean": "the same",
        f"{PGD} at L2 0.5": "worse",
        f"{RANK1} at L2 0.5": "better",
        "apgd-ce at L2 0.5": "inside the noise",
        "apgd-t at L2 0.5": "the same",
        "worst case at L2 0.5": "the same",
    }
    assert [change.what for change in found.worse] == [f"{PGD} at L2 0.5"]
    assert next(found.lines()).startswith(
        f"net on digits, {PGD} at L2 0.5: 50.0 % [43.1, 56.9] -> 40.0 % [33.5, 46.9]: worse, -10.0 points"
    )
    assert "(n = 200, Holm p " in str(changes[f"{PGD} at L2 0.5"])
    assert list(found.lines())[-1].startswith("6 of 6 numbers compared, 3 are the same on every image")


def test_many_comparisons_need_more(verdicts, held):
    """6 images of 200: p = 0.031 alone, not together with others."""
    changes, _ = verdicts({PGD: held(0.5)}, {PGD: held(0.47)})
    alone = changes[f"{PGD} at L2 0.5"]
    assert alone.distance.p == pytest.approx(2 / 2**6)
    assert alone.p == pytest.approx(3 * 2 / 2**6)  # clean, the attack and the worst case
    assert alone.verdict == "inside the noise"


def test_what_is_not_on_the_same_images_is_not_compared(verdicts, held):
    with pytest.raises(ValueError, match=r"nothing of .* can be compared: the images are others \(--images, --slice\)"):
        verdicts({PGD: held(0.5, 100)}, {PGD: held(0.1)})


def test_a_worst_case_over_other_attacks_is_not_compared(verdicts, held):
    changes, found = verdicts({PGD: held(0.5)}, {PGD: held(0.5), RANK1: held(0.3)})
    assert changes["worst case at L2 0.5"].verdict == "not compared"
    assert changes[f"{PGD} at L2 0.5"].verdict == "the same"
    assert "only here: net on digits, 1 numbers" in list(found.lines())


def test_nothing_in_common(folder, held):
    one, two = (folder({PGD: held(0.5)}, model=name, out=name) for name in ("a", "b"))
    with pytest.raises(ValueError, match="have no model, data and attack in common"):
        compared(summary_of(one), summary_of(two))


def test_where_everything_failed_now_that_is_said(folder, held):
    before = folder({PGD: held(0.5)}, out="before")
    now = folder({PGD: {"robust": held(0.5), "error": "no"}}, out="now", error="gone")
    found = compared(summary_of(now), summary_of(before))
    assert list(found.lost) == ["net on digits, clean", f"net on digits, {PGD}"]
    assert "net on digits, clean: failed now" in list(found.lines())
