"""Places, distances, effective ranks: answers known before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from art_lowrank.evaluate.report.curves import effective_rank, rank_curve_of
from art_lowrank.evaluate.report.ranking import holm, pairs_of, strongest
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.report.words import against_strongest, sentence
from art_lowrank.statistics import mcnemar

PGD, RANK1, CURVE = "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]", "rank-curve"


def test_holm_by_hand():
    raised = holm(np.array([0.03, 0.01, 0.04, 0.005]))
    assert raised.tolist() == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


def test_surely_better_is_mcnemar_and_holm_of_all_pairs(held):
    flags = np.stack([held(share, 300, seed) for seed, share in enumerate((0.8, 0.78, 0.6, 0.55, 0.3))])
    pairs = list(itertools.combinations(range(5), 2))
    raised = holm(np.array([mcnemar(flags[i], flags[j]) for i, j in pairs]))
    known = np.zeros((5, 5), bool)
    for (i, j), p in zip(pairs, raised, strict=True):
        known[i, j] = p < 0.05 and flags[i].sum() > flags[j].sum()
    p, better = pairs_of(flags)
    assert (better == known).all()
    assert [p[i, j] for i, j in pairs] == [p[j, i] for i, j in pairs] == pytest.approx(raised.tolist())
    assert known.any()
    assert not known[0, 1]


def test_models_that_are_not_told_apart_share_a_place(folder, held):
    for model, share in (("good", 0.8), ("as good", 0.79), ("bad", 0.3), ("worse", 0.1)):
        path = folder({PGD: held(share)}, model=model)
    (board,) = summary_of(path).boards
    assert [(standing.place, entry.model) for standing, entry in zip(board.standings, board.entries, strict=True)] == [
        ("1", "good"), ("1", "as good"), ("3", "bad"), ("4", "worse")
    ]  # fmt: skip


def test_models_that_met_other_attacks_have_no_place(folder, held):
    folder({PGD: held(0.8)}, model="one")
    folder({PGD: held(0.5)}, model="two")
    path = folder({PGD: held(0.4), RANK1: held(0.6)}, model="three")
    (board,) = summary_of(path).boards
    pairs = zip(board.entries, board.standings, strict=True)
    found = {entry.model: (standing.place, standing.why) for entry, standing in pairs}
    assert found == {"one": ("1", ""), "two": ("2", ""), "three": ("", "other attacks")}


def test_a_model_that_failed_is_last_and_has_no_number(folder, held):
    folder({PGD: {"robust": held(0.5), "error": "no"}}, model="failed", error="no such layer")
    path = folder({PGD: held(0.5)}, model="fine")
    summary = summary_of(path)
    assert [entry.model for entry in summary.entries] == ["fine", "failed"]
    assert summary.entries[1].worst is None
    assert sentence(summary.entries[1]) == "failed on digits: no worst case was found."


def test_distance_to_the_strongest_attack(folder, held):
    path = folder({PGD: held(0.5), RANK1: held(0.6), "apgd-ce": held(0.505)})
    (entry,) = summary_of(path).entries
    pgd, rank1, apgd = entry.rows
    assert strongest(entry) is pgd
    assert against_strongest(entry, pgd) == "strongest"
    assert against_strongest(entry, rank1) == "+10.0 points [+5.8, +14.2] (p < 0.0001)"
    assert against_strongest(entry, apgd) == "+0.5 points [-0.5, +1.5] (inside the noise, p = 1)"


def test_what_is_ready_to_be_quoted(folder, held):
    (entry,) = summary_of(folder({PGD: held(0.5), RANK1: held(0.6)}, clean=held(0.9))).entries
    assert sentence(entry) == (
        "net on digits: 50.0 % [43.1, 56.9] of 200 images hold within L2 0.5 against the worst case of 2 attacks "
        "(1 seed); clean accuracy 90.0 % [85.1, 93.4]. 95 % intervals by Wilson."
    )


@pytest.mark.parametrize(("shares", "rank"), [
    ((0.6, 0.5, 0.405, 0.4), 4), ((0.4, 0.4, 0.4, 0.4), 1), ((0.8, 0.7, 0.6, 0.5), 8), ((0.41, 0.4, 0.4, 0.4), 1),
])  # fmt: skip
def test_effective_rank_is_the_smallest_within_a_point(held, shares, rank):
    found = effective_rank((1.0, 2.0, 4.0, 8.0), np.stack([held(share, 1000) for share in shares]))
    assert found.value == rank
    assert found.low <= rank <= found.high


def test_the_interval_of_the_effective_rank_shrinks_with_the_images(held):
    def of(n):
        rows = np.stack([held(share, n) for share in (0.55, 0.512, 0.506, 0.5)])
        return effective_rank((1.0, 2.0, 4.0, 8.0), rows)

    assert of(250).low < of(250).high
    assert of(100_000)[1:] == (4.0, 4.0)
    assert of(250) == of(250)


def test_rank_curve_from_one_run(folder):
    breaking = [1.0] * 50 + [2.0] * 30 + [8.0] * 20 + [None] * 100
    values = {"robust": [at is None for at in breaking], "breaking": breaking, "values": [1, 2, 4, 8], "along": "rank"}
    (entry,) = summary_of(folder({CURVE: values})).entries
    curve = rank_curve_of(entry)
    assert [share.value for share in curve.accuracy] == [0.75, 0.6, 0.6, 0.5]
    assert curve.effective.value == 8
    assert curve.images == 200


def test_rank_curve_from_separate_attacks(folder, held):
    attacks = {f"lowrank-pgd[rank={rank},steps=20]": held(share) for rank, share in ((1, 0.7), (4, 0.5), ("full", 0.5))}
    (entry,) = summary_of(folder({**attacks, "lowrank-pgd[rank=2,steps=40]": held(0.1)})).entries
    curve = rank_curve_of(entry)
    assert curve.ranks == (1, 4, float("inf"))
    assert curve.source == "lowrank-pgd[steps=20,rank=...]"
    assert curve.effective.value == 4
    (entry,) = summary_of(folder(attacks, out="shape", shape=[3, 32, 24])).entries
    assert rank_curve_of(entry).ranks == (1, 4, 24)


def test_no_rank_curve_without_ranks(folder, held):
    (entry,) = summary_of(folder({PGD: held(0.5), RANK1: held(0.5)})).entries
    assert rank_curve_of(entry) is None
