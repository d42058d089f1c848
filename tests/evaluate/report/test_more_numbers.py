"""Doubts, orders, curves, places and rows at their edges: each answer is known before."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from art_lowrank.evaluate import evaluate, plan_of
from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.report.compare import compared
from art_lowrank.evaluate.report.curves import effective_rank, rank_curve_of
from art_lowrank.evaluate.report.flags import _kinds_differ
from art_lowrank.evaluate.report.order import ENSEMBLE, ITERATIVE, LOW_RANK, ONE_STEP, variant_of
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.rows import Row

FGSM, PGD, RANK1, CURVE = "torchattacks:FGSM", "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]", "rank-curve"
RANK2 = "lowrank-pgd[rank=2]"


def changed(path, change):
    """The records' lines, changed as JSON."""
    records = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
    change(records)
    (path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def standing(path):
    """By model its place and why it has none, in the order of the board."""
    (board,) = summary_of(path).boards
    pairs = zip(board.entries, board.standings, strict=True)
    return {entry.model: (place.place, place.why) for entry, place in pairs}


@pytest.mark.parametrize(("share", "classes", "fires"), [
    (0.12, 10, False),  # more than half a chance, less than one and a half
    (0.17, 10, True), (0.4, None, True), (0.4, 2, False),
])  # fmt: skip
def test_a_plateau_must_lie_above_chance(folder, held, share, classes, fires):
    for eps, at in ((0.25, 0.6), (0.5, share), (1.0, share)):
        path = folder({PGD: held(at, 2000)}, eps=eps, classes=classes)
    kinds = [flag.kind for flags in summary_of(path).flags.values() for flag in flags]
    assert kinds == ["plateau"] * fires


def test_attacks_on_fewer_images_are_not_held_against_each_other(folder, held):
    folder({FGSM: held(0.1, 100), PGD: held(0.9, 100)}, clean=held(1.0, 100))
    path = folder({name: held(0.5) for name in ("apgd-ce", "apgd-t", "apgd-dlr")})
    flags = {row.attack: [flag.kind for flag in found] for row, found in summary_of(path).flags.items() if found}
    assert flags == {FGSM: ["other images"], PGD: ["other images"]}


def test_attacks_that_failed_halfway_are_not_held_against_each_other(folder, held):
    path = folder({FGSM: held(0.05), PGD: held(0.45), "apgd-ce": held(0.5)}, size=100)
    lost = {"status": "failed", "error": "out of luck", "type": "ValueError", "traceback": ""}
    changed(path, lambda records: [record.update(values=lost) for record in records[5:7]])
    summary = summary_of(path)
    assert [len(row.robust) for row in summary.entries[0].rows] == [100, 100, 200]
    flags = {row.attack: [flag.kind for flag in found] for row, found in summary.flags.items() if found}
    assert flags == {FGSM: ["failed"], PGD: ["failed"]}


def test_chance_may_hold_a_few_more_where_all_is_allowed(kinds, held):
    assert kinds({PGD: held(0.12)}, eps=4.0, shape=[1, 8, 8]) == {}


def test_which_kinds_of_attack_are_ordered():
    levels = range(4)
    found = {(weak, strong) for weak in levels for strong in levels if _kinds_differ(weak, strong)}
    assert found == {(ONE_STEP, ITERATIVE), (ONE_STEP, ENSEMBLE), (LOW_RANK, ENSEMBLE), (ITERATIVE, ENSEMBLE)}


def test_fractions_of_a_rank_are_not_compared_with_numbers(kinds, held):
    assert kinds({"lowrank-pgd[rank=0.1]": held(0.5), RANK2: held(0.6)}) == {}


def test_tiles_are_no_part_of_the_radius(held):
    assert variant_of(Row("m", "d", RANK1, "group-nuc 0.5 tile 4", 0, held(1.0))).eps == 0.5


def test_other_seeds_are_not_compared(folder, held):
    folder({RANK1: held(0.5)}, seed=0)
    flags = summary_of(folder({RANK2: held(0.6)}, seed=1)).flags
    assert {flag.kind for found in flags.values() for flag in found} == {"no strong attack"}


def test_exactly_a_point_above_is_within_a_point(held):
    for right in range(1, 100):
        flags = np.stack([held((right + 1) / 100, 100), held(right / 100, 100)])
        assert effective_rank((1.0, 2.0), flags).value == 1


def test_the_interval_holds_95_percent_of_the_draws():
    """So many of 10000 images fall at the second rank that one draw in 27 says the other rank."""
    place = np.arange(10_000)
    for fallen, name, other in ((120, "low", 1), (84, "high", 2)):
        flags = np.stack([place >= 0, place >= fallen])
        ends = [getattr(effective_rank((1.0, 2.0), flags, seed), name) for seed in range(20)]
        assert sum(end == other for end in ends) > 10


def test_more_ranks_than_bits_in_a_word():
    breaking = np.repeat([66, 67, np.inf], [50, 50, 400])
    ranks = np.arange(1.0, 71.0)
    assert effective_rank(tuple(ranks), breaking > ranks[:, None]).value == 67


def test_survivors_make_no_rank_curve(folder, held):
    breaking = [1.0] * 50 + [None] * 150
    values = {"robust": [at is None for at in breaking], "breaking": breaking, "values": [1, 2], "along": "rank"}
    assert rank_curve_of(summary_of(folder({PGD: held(0.9), CURVE: values}, survivors=True)).entries[0]) is None
    assert rank_curve_of(summary_of(folder({PGD: held(0.9), CURVE: values}, out="plain")).entries[0]).ranks == (1, 2)
    apart = folder({RANK1: held(0.9), RANK2: held(0.8)}, survivors=True, out="apart")
    assert rank_curve_of(summary_of(apart).entries[0]) is None


def test_the_rank_curve_is_that_of_most_ranks(folder, held):
    ranks = {20: (1, 2, 4), 40: (1, 8)}
    attacks = {f"lowrank-pgd[rank={rank},steps={steps}]": held(0.5) for steps in ranks for rank in ranks[steps]}
    assert rank_curve_of(summary_of(folder(attacks)).entries[0]).ranks == (1, 2, 4)


def test_models_on_other_images_have_no_place(folder, held):
    folder({PGD: held(0.8)}, model="all")
    assert standing(folder({PGD: held(0.7, 100)}, model="few")) == {"all": ("1", ""), "few": ("", "other images")}


def test_the_order_of_attacks_does_not_matter(folder, held):
    folder({PGD: held(0.8), RANK1: held(0.9)}, model="one")
    assert standing(folder({RANK1: held(0.5), PGD: held(0.4)}, model="two")) == {"one": ("1", ""), "two": ("2", "")}


@pytest.mark.parametrize("share", [0.9, 0.1])
def test_an_interrupted_model_has_no_place(folder, held, share):
    folder({PGD: held(share)}, model="interrupted")
    found = standing(folder({PGD: held(0.5), RANK1: held(0.6)}, model="whole"))
    assert found == {"whole": ("1", ""), "interrupted": ("", "other attacks")}


def test_a_doubtful_model_is_last(folder, held):
    folder({PGD: held(0.9)}, model="doubtful", doubts=["randomised"])
    found = standing(folder({PGD: held(0.2)}, model="sound"))
    assert list(found.items()) == [("sound", ("1", "")), ("doubtful", ("", "doubtful model"))]


def test_images_of_other_files_are_not_compared(folder, held):
    def other(records):
        for record in records:
            settings, meant = record["settings"], record["settings"]["meant"]
            meant["data"] = {"spec": "digits", "files": ["another"]}
            cell = Cell("", "", settings["start"], settings["stop"], record["attack"], record["seed"], meant)
            settings["cell"] = cell.id

    before, now = folder({PGD: held(0.5)}, out="before"), folder({PGD: held(0.3)}, out="now")
    changed(before, other)
    with pytest.raises(ValueError, match="can be compared: the images' files are others"):
        compared(summary_of(now), summary_of(before))


def test_attacks_on_survivors_are_others(folder, held):
    attacks = {PGD: held(0.5), RANK1: held(0.45)}
    before, now = folder(attacks, out="before"), folder(attacks, out="now", survivors=True)
    found = compared(summary_of(now), summary_of(before))
    verdicts = {change.what: change.verdict for change in found.changes}
    assert verdicts == {"clean": "the same", f"{PGD} at L2 0.5": "the same", "worst case at L2 0.5": "not compared"}
    assert len(found.only_here) == len(found.only_there) == 1


def test_every_seed_is_compared_with_itself(folder, held):
    for out, shares in (("before", {0: 0.5, 1: 0.4, 2: 0.5}), ("now", {0: 0.5, 1: 0.2, 3: 0.1})):
        for seed, share in shares.items():
            folder({PGD: held(share)}, out=out, seed=seed)
    root = folder({}, out="empty").parent
    found = compared(summary_of(root / "now"), summary_of(root / "before"))
    verdicts = {change.what: change.verdict for change in found.changes if PGD in change.what}
    assert verdicts == {f"{PGD} at L2 0.5": "the same", f"{PGD} at L2 0.5, seed 1": "worse"}
    assert len(found.only_here) == len(found.only_there) == 1


def test_a_curve_counts_what_was_not_attacked_as_broken(folder, held):
    breaking = [2.0] * 40 + [None] * 160
    robust = np.array([at is None for at in breaking]) & held(0.8)
    values = {"robust": robust, "breaking": breaking, "values": [1, 2], "along": "rank"}
    (entry,) = summary_of(folder({CURVE: values}, clean=held(0.8))).entries
    assert entry.rows[0].curve == ((1.0, 0.8), (2.0, 0.6))


def test_doubts_of_a_model_stand_on_all_its_rows(folder, held):
    rows = summary_of(folder({PGD: held(0.5), RANK1: held(0.6)}, doubts=["randomised", "constant"])).rows
    assert [row.doubts for row in rows] == 3 * [("randomised", "constant")]


def test_what_the_clean_record_of_real_images_says(tmp_path):
    evaluate(plan_of({"models": ["digits:standard"], "attacks": ["lowrank-pgd[rank=1,steps=2]"], "images": 50}),
             tmp_path, verbose=False)  # fmt: skip
    summary = summary_of(tmp_path)
    (record,) = next(row for row in summary.rows if row.attack == CLEAN).records
    y = load_file(tmp_path / "images" / f"{record.settings['cell']}.safetensors")["y"]
    assert (record.values["classes"], record.values["shape"]) == (10, [1, 8, 8])
    assert record.values["most_common"] == np.bincount(y).max()


def test_more_images_at_another_radius(folder, held):
    folder({PGD: held(0.6, 100)}, eps=0.5)
    boards = summary_of(folder({PGD: held(0.5)}, eps=1.0)).boards
    found = {
        board.threat: (len(board.entries[0].worst.robust), board.entries[0].worst.accuracy.value) for board in boards
    }
    assert found == {"L2 0.5": (100, 0.6), "L2 1": (200, 0.5)}


def test_slices_cut_in_two_ways_have_one_worst_case(folder, held):
    folder({PGD: held(0.6)}, size=100)
    (entry,) = summary_of(folder({RANK1: held(0.5, seed=1)})).entries
    assert len(entry.counted) == 2
    assert (entry.worst.robust == (held(0.6) & held(0.5, seed=1))).all()
