"""A folder filled in several runs holds what one run would have put there."""

from __future__ import annotations

import pytest

from art_lowrank.evaluate import VOLATILE
from art_lowrank.record import read

ATTACKS = ("lowrank-pgd[rank=1,steps=3]", "lora-pgd[rank=2,steps=3]", "art:ProjectedGradientDescent[max_iter=2]")


@pytest.mark.parametrize("survivors", [False, True])
def test_a_plan_run_in_parts_leaves_what_one_run_does(run, tmp_path, stable, images, survivors):
    everything = {"models": ["digits:standard", "digits:low-rank"], "attacks": ATTACKS, "seeds": [0, 1]}
    run(survivors=survivors, **everything)
    parts = [{"attacks": ATTACKS[:2]}, {"images": 20}, {"models": ["digits:low-rank"]}, {"seeds": [1]}, {}]
    for part in parts:
        run(out="parts", survivors=survivors, **{**everything, **part})
    assert stable(tmp_path / "parts") == stable(tmp_path / "out")
    assert images(tmp_path / "parts") == images(tmp_path / "out")


def test_what_is_done_is_not_run_again(run, tmp_path):
    first = run()
    before = (tmp_path / "out" / "records.jsonl").read_bytes()
    assert run(batch_size=7) == first
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before


def test_volatile_fields_are_the_ones_that_are_named(run):
    assert {name for record in run() for name in record.volatile} == set(VOLATILE)


def test_failed_cells_wait_for_retry_and_then_take_the_old_ones_place(run, write_model, tmp_path, stable):
    model = write_model(
        f"if not Path({str(tmp_path / 'mended')!r}).exists():\n    raise OSError('no')\nreturn self.net(x)"
    )
    failed = run(models=[model])
    assert {record.values["status"] for record in failed} == {"failed"}
    (tmp_path / "mended").touch()
    assert run(models=[model]) == failed
    mended = run(models=[model], retry=True)
    assert {record.values["status"] for record in mended} == {"done"}
    assert mended == run(models=[model]) == run(models=[model], retry=True)
    assert len(read(tmp_path / "out" / "records.jsonl")) == 2 * len(failed)
    run(out="mended from the start", models=[model])
    found = {record.settings["cell"]: {"values": record.values, "settings": record.settings} for record in mended}
    for cell, record in stable(tmp_path / "mended from the start").items():
        assert found[cell] == {"values": record["values"], "settings": record["settings"]}


def test_images_whose_record_was_torn_away_are_made_again(run, tmp_path, stable, images):
    run()
    whole, kept = stable(tmp_path / "out"), images(tmp_path / "out")
    path = tmp_path / "out" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-300])
    run()
    assert stable(tmp_path / "out") == whole
    assert images(tmp_path / "out") == kept


def test_without_images_the_numbers_are_the_same_and_no_file_is_kept(run, tmp_path, images):
    with_images, without = run(), run(out="without", keep_images=False)
    assert [record.values for record in with_images] == [record.values for record in without]
    assert images(tmp_path / "without") == {}
