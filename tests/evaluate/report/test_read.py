"""A folder is read as it is: what is not there or not whole is said in one line, and nothing in it is changed."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from art_lowrank.evaluate import evaluate, plan_of
from art_lowrank.evaluate.report.read import last_records, rows_in
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.rows import rows_of

PGD = "torchattacks:PGDL2[steps=20]"
RANK1 = "lowrank-pgd[rank=1,steps=3]"


def read_rows(path):
    return rows_in(path, last_records(path))


def fields(row):
    return {name: value for name, value in vars(row).items() if name not in ("robust", "accuracy")}


def changed(path, change):
    """The records' lines, changed as JSON."""
    file = path / "records.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    change(records)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_rows_are_those_of_the_evaluation(tmp_path):
    models, attacks = ["digits:standard", "digits:low-rank"], [RANK1, "rank-curve[steps=4]", "apgd-xyz"][:2]
    plan = plan_of({"models": models, "attacks": attacks, "images": 50, "slice": 20, "seeds": [0, 1]})
    found = evaluate(plan, tmp_path, verbose=False)
    for there, here in zip(rows_of(found.cells, found.records), read_rows(tmp_path), strict=True):
        assert {**fields(there), "records": len(there.records)} == {**fields(here), "records": len(here.records)}
        assert (there.robust == here.robust).all()
    assert here.slices == ((0, 20), (20, 40), (40, 50))


def test_survivors_stay_one_row_over_all_slices(tmp_path):
    plan = plan_of({"models": ["digits:standard"], "attacks": [RANK1, "lowrank-pgd[rank=2,steps=3]"], "images": 40,
                    "slice": 20, "survivors": True})  # fmt: skip
    evaluate(plan, tmp_path, verbose=False)
    clean, first, second = read_rows(tmp_path)
    assert (first.after, second.after) == (0, 1)
    assert len(second.robust) == 40
    assert second.attacked == first.robust.sum() < first.attacked == clean.robust.sum()


def test_the_last_record_of_a_cell_counts(folder, held):
    folder({PGD: {"robust": held(0.5), "error": "out of luck"}})
    (entry,) = summary_of(folder({PGD: held(0.5)})).entries
    assert entry.worst.accuracy.value == 0.5


def test_fewer_images_first_then_all(folder, held):
    folder({PGD: held(0.1, 100)}, clean=held(1.0, 100))
    path = folder({PGD: held(0.5)})
    assert [row.slices for row in read_rows(path)] == [((0, 200),), ((0, 200),)]


def test_the_same_name_for_other_weights_is_another_model(folder, held):
    folder({PGD: held(0.5)}, weights="v1")
    path = folder({PGD: held(0.4)}, weights="v2")
    assert [(entry.model, entry.worst.accuracy.value) for entry in summary_of(path).entries] == [
        ("net (1 before)", 0.5), ("net", 0.4)
    ]  # fmt: skip


def test_two_radii_in_one_folder_are_two_boards(folder, held):
    folder({PGD: held(0.5)}, eps=0.25)
    path = folder({PGD: held(0.4)}, eps=0.5)
    assert [board.title for board in summary_of(path).boards] == ["digits, L2 0.25", "digits, L2 0.5"]


def test_models_by_name(folder, held):
    folder({PGD: held(0.5)}, model="one")
    path = folder({PGD: held(0.5)}, model="two")
    assert [entry.model for entry in summary_of(path, ["two"]).entries] == ["two"]
    with pytest.raises(ValueError, match=r"unknown model 'tow'; did you mean two\? \(--model\)"):
        summary_of(path, ["tow"])


def test_nothing_is_changed(folder, held):
    path = folder({PGD: held(0.5)})
    (path / "records.jsonl").write_bytes((path / "records.jsonl").read_bytes() + b'{"kind": "eval')  # torn by a kill
    before = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(path)]
    read_rows(path)
    assert [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(path)] == before


def test_no_folder_no_records_no_cells(tmp_path, folder, held):
    with pytest.raises(ValueError, match=r"there is no folder '.*nowhere'; give one that art-lowrank evaluate"):
        read_rows(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"holds no records\.jsonl; evaluate into it first: art-lowrank evaluate --out"
    ):
        read_rows(tmp_path)
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"holds no cell of an evaluation yet"):
        read_rows(tmp_path)
    (tmp_path / "records.jsonl").write_bytes((folder({PGD: held(0.5)}) / "records.jsonl").read_bytes().splitlines()[1])
    with pytest.raises(ValueError, match="lacks the cells without an attack"):
        read_rows(tmp_path)
    shutil.copy(__file__, tmp_path / "records.jsonl")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1 is not a record"):
        read_rows(tmp_path)


@pytest.mark.parametrize(("change", "words"), [
    (lambda r: r[1]["values"].update(robust="f"), "50 lower-case hex digits"),
    (lambda r: r[1]["values"].update(robust=["<b>"]), r"values\.robust \"\['<b>'\]\""),
    (lambda r: r[1]["values"].pop("attacked"), "lacks 'attacked'"),
    (lambda r: r[1]["values"].pop("status"), "lacks 'status'"),
    (lambda r: r[1]["values"].update(breaking=[1.0], values=[1.0]), "1 numbers `breaking` for 200 images"),
    (lambda r: r[1]["values"].update(values="x"), r"values\.values 'x'"),
    (lambda r: r[1]["settings"].pop("cell"), "lacks 'cell'"),
    (lambda r: r[1]["settings"].update(meant=3), r"settings\.meant"),
    (lambda r: r[1]["settings"].update(stop=10**9), "is of images 0 to 1000000000, n 200"),
    (lambda r: r[1].update(n=-1), "n -1"),
    (lambda r: r[1].update(seed=None), "seed None"),
    (lambda r: r[1]["settings"]["meant"].update(attack="other"), "was changed by hand or written by another version"),
    (lambda r: r[0].update(schema=99), "schema 99 is newer"),
])  # fmt: skip
def test_damage_is_one_line_that_names_the_place(folder, held, change, words):
    path = folder({PGD: held(0.5)})
    changed(path, change)
    with pytest.raises(ValueError, match=words) as caught:
        read_rows(path)
    assert "records.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)
