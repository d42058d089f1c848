"""The README's section on training is written from the records, and says what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from art_lowrank.record import pack, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "integration" / "training"


@pytest.fixture
def readme(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("this copy of the tests has no integration folder")
    monkeypatch.syspath_prepend(str(FOLDER))
    import training_readme

    return training_readme


@pytest.fixture
def records(readme):
    if not readme.RESULTS.exists():
        pytest.skip("nothing is recorded yet: run integration/training/grid.py")
    return read(readme.RESULTS)


def test_readme_says_what_the_records_say(readme, records):
    text = readme.README.read_text(encoding="utf-8")
    assert readme.written(text, readme.section(records)) == text


def test_a_row_and_its_targets_follow_from_the_outcomes(readme, records):
    """With every image of the dense net broken, ours is ahead by its own accuracy."""
    from training_table import DENSE, OURS, rows, targets

    ours = rows(records)[OURS, 0.2]

    def broken(record):
        if record.settings.get("contender") != "dense" or "holds" not in record.values:
            return record
        return replace(record, values={**record.values, "holds": pack([False] * record.n)})

    found = rows([broken(record) for record in records])
    assert found[DENSE].holds.sum() == 0
    gap = next(target for target in targets(found) if "robust at least dense-2" in target.text)
    assert gap.value.value == pytest.approx(ours.holds.mean())
    assert "**met**" in str(gap)


def test_contenders_were_trained_alike(records):
    """One judge, one number of images and epochs, three seeds each, and the same source of the weights."""
    final = [r for r in records if r.kind == "training" and r.attack.startswith("APGD") and r.model == "lenet5"]
    assert len({(r.attack, r.n, r.settings["epochs"], r.versions["source"]) for r in final}) == 1
    assert {r.seed for r in final} == {0, 1, 2}
