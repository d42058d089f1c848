"""What is asked for: flags and TOML, mistakes in one line, cells and their ids."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from art_lowrank.evaluate import evaluate, plan_of, read_plan
from art_lowrank.evaluate.plan import cells_of, slices
from art_lowrank.evaluate.run import bench_of

MODELS, DATA, ATTACKS = {"net": {"hash": 1}}, {"set": ("files", 5)}, {"one": 1, "two": 2, "three": 3}


def cells(models=MODELS, data=DATA, attacks=ATTACKS, **changes):
    return cells_of(models, data, attacks, plan_of({"slice": 2, **changes}))


def test_a_toml_file_says_what_flags_say_and_flags_overrule_it(tmp_path):
    (tmp_path / "plan.toml").write_text('eps = "8/255"\nnorm = "inf"\nimages = 60\nsurvivors = true\nseeds = [0, 1]\n')
    plan = read_plan(tmp_path / "plan.toml", {"images": 20})
    assert plan == plan_of({"eps": 8 / 255, "norm": "Linf", "images": 20, "survivors": True, "seeds": (0, 1)})
    assert (plan.eps, plan.images, plan.survivors) == (8 / 255, 20, True)


@pytest.mark.parametrize("text", ["images = \n", "\xff", "a" * 3])
def test_what_is_no_toml_is_said(tmp_path, text):
    (tmp_path / "plan.toml").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"plan.toml cannot be read as TOML"):
        read_plan(tmp_path / "plan.toml", {})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"modles": ["a"]}, "^the plan: unknown key 'modles'; did you mean models"),
        ({"images": 0}, "images is 0"),
        ({"images": [5]}, r"images is \[5\]"),
        ({"slice": [20]}, r"slice is \[20\]"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"slice": True}, "slice is True"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0, -1]}, "seeds is -1"),
        ({"models": 3}, "models is .*give texts"),
        ({"attacks": []}, "attacks is empty"),
        ({"eps": "wide"}, "eps is 'wide'"),
        ({"eps": "1/0"}, "the plan: .*1/0"),
        ({"norm": "3"}, "norm is '3'"),
        ({"survivors": 1}, "survivors is 1; give true or false"),
        ({"keep_images": "no"}, "keep_images is 'no'"),
        ({"device": 3}, "device"),
        ({"data_dir": 3}, "data_dir"),
    ],
)
def test_a_bad_value_is_one_line(found, message):
    with pytest.raises(ValueError, match=message) as caught:
        plan_of(found)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", ["2", "inf", "1", "nuc", "group-nuc"])
def test_the_usual_attacks_suit_norm_and_radius(norm):
    plan = plan_of({"norm": norm, "eps": "8/255", "images": 5})
    assert bench_of(plan).attacks
    assert ("lora-pgd[rank=2]" in plan.attacks) == (norm == "2")
    assert ("art:ProjectedGradientDescent[max_iter=20,eps_step=0.00627451]" in plan.attacks) == (norm in "1 2 inf")


def test_slices_cover_every_image_once():
    for n, images, size in [(10, None, 3), (10, 7, 7), (10, 20, 4), (1, 1, 500), (9, 9, 1)]:
        covered = [row for start, stop in slices(n, images, size) for row in range(start, stop)]
        assert covered == list(range(n if images is None else min(n, images)))


def test_ids_are_a_hash_of_what_was_asked():
    clean, attacked = cells(slice=5)[:2]
    asked = {"format": 1, "start": 0, "stop": 5, "seed": 0, "model": {"hash": 1}, "data": "files"}
    for cell, more in ((clean, {"attack": "clean"}), (attacked, {"attack": 1, "after": []})):
        text = json.dumps({**asked, **more}, sort_keys=True)
        assert cell.id == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert (clean.id, attacked.id) == ("ea2010c1faf0", "3b966f9e27b6")


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 1},
        {"slice": 3},
        {"models": {"net": {"hash": 2}}},
        {"data": {"set": ("other files", 5)}},
        {"attacks": {"one": 2}},
        {"survivors": True, "attacks": {"zero": 0, "one": 1}},
    ],
)
def test_another_question_has_another_id(changes):
    asked = {"attacks": {"one": 1}, **changes}
    assert cells(attacks={"one": 1})[1].id not in {cell.id for cell in cells(**asked) if cell.attack == "one"}


def test_how_and_where_it_is_run_does_not_enter():
    ids = [cell.id for cell in cells()]
    for changes in ({"batch_size": 1}, {"device": "cuda:7"}, {"keep_images": False}, {"data_dir": "x"}, {"images": 5}):
        assert [cell.id for cell in cells(**changes)] == ids
    assert len(set(ids)) == len(ids) == 3 * 4


def test_survivors_come_after_all_attacks_before_them_of_the_same_seed_and_slice():
    found = cells(survivors=True, seeds=[0, 1])
    for cell in found:
        same = [c for c in found if c.start == cell.start and (c.attack == "clean" or c.seed == cell.seed)]
        before = same[: same.index(cell)]
        assert cell.needs == (() if cell.attack == "clean" else tuple(c.id for c in before))


def test_survivors_of_another_ball_are_none():
    attacks = {"a": {"threat": ["L2", 1]}, "b": {"threat": ["Linf", 1]}, "c": {"threat": ["L2", 1], "steps": 2}}
    clean, first, other, last = cells(survivors=True, attacks=attacks, slice=5)
    assert (other.needs, last.needs) == ((clean.id,), (clean.id, first.id))


def test_a_seed_asked_for_twice_is_run_once():
    assert len(cells(seeds=[0, 0, 1])) == len(cells(seeds=[0, 1]))


def test_ids_follow_options_and_the_bytes_of_files_but_not_their_spelling(tmp_path):
    path = tmp_path / "some.npz"

    def ids(seed=0, **changes):
        np.savez(path, x=np.random.default_rng(seed).random((4, 1, 8, 8)), y=np.arange(4))
        bench = bench_of(plan := plan_of({"models": "digits:standard", "data": str(path), **changes}))
        parts = ({name: entry.meaning for name, entry in kind.items()} for kind in (bench.models, bench.attacks))
        models, attacks = parts
        found = cells_of(models, {name: (e.meaning, e.n) for name, e in bench.data.items()}, attacks, plan)
        return [cell.id for cell in found]

    same = ids(attacks="lowrank-pgd[rank=2,eps=8/255]")
    assert ids(attacks=f"lowrank-pgd[ eps = {8 / 255}, power, rank=2]") == same
    assert ids(attacks="lowrank-pgd[rank=2]", eps="8/255") == same
    for changes in ({"eps": 8 / 256}, {"norm": "inf"}, {"attacks": "lowrank-pgd[rank=3]"}, {"seed": 1}):
        asked = {"attacks": "lowrank-pgd[rank=2]", "eps": 8 / 255, **changes}
        assert ids(**asked)[1] != same[1]


def test_clean_alone_is_no_attack(tmp_path):
    found = evaluate(
        plan_of({"models": ["digits:standard"], "attacks": ["clean"], "images": 20}), tmp_path, verbose=False
    )
    assert [cell.attack for cell in found.cells] == ["clean"]
    with pytest.raises(ValueError, match="unknown attack"):
        evaluate(plan_of({"attacks": ["clean[eps=1]"]}), tmp_path, verbose=False)
