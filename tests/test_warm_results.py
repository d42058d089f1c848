"""The README's section on warm starts is written from the records, and says what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from art_lowrank.record import pack, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "integration" / "warm_start"


@pytest.fixture
def readme(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("this copy of the tests has no integration folder")
    monkeypatch.syspath_prepend(str(FOLDER))
    import warm_readme

    return warm_readme


@pytest.fixture
def records(readme):
    if not readme.RESULTS.exists():
        pytest.skip("nothing is recorded yet: run integration/warm_start/warm_grid.py")
    return read(readme.RESULTS)


def test_readme_says_what_the_records_say(readme, records):
    text = readme.README.read_text(encoding="utf-8")
    assert readme.written(text, readme.section(records)) == text


def test_targets_follow_from_the_outcomes(readme, records):
    """With every image of PGD-7 broken, ours is ahead by its own accuracy; with every image of ours, it misses."""
    from warm_table import PGD, targets, tasks

    def broken(name):
        def change(record):
            if record.settings.get("contender") != name or "holds" not in record.values:
                return record
            return replace(record, values={**record.values, "holds": pack([False] * record.n)})

        return list(map(change, records))

    ours = tasks(records)["mnist l2 2.0"]["warm start, rank 3"].holds.mean()
    first = next(targets(tasks(broken(PGD))))
    assert f"{100 * ours:+.1f} points" in first
    assert "**met**" in first
    assert "**missed**" in next(targets(tasks(broken("warm start, rank 3"))))


def test_contenders_were_trained_alike(records):
    """One judge, one net and one number of images a task, three seeds each."""
    final = [r for r in records if r.kind == "warm-start" and r.attack.startswith("APGD")]
    for task in {r.settings["task"] for r in final}:
        rows = [r for r in final if r.settings["task"] == task]
        assert len({(r.attack, r.n, r.model, r.data) for r in rows}) == 1
        names = {r.settings["contender"] for r in rows}
        assert len(rows) == 3 * len(names)
        assert {(r.settings["contender"], r.seed) for r in rows} == {
            (name, seed) for name in names for seed in (0, 1, 2)
        }
