"""The README's lines on workers and layouts are written from the records, and say what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from art_lowrank.record import read

FOLDER = Path(__file__).parents[1] / "integration" / "cluster"


@pytest.fixture
def readme(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("this copy of the tests has no integration folder")
    monkeypatch.syspath_prepend(str(FOLDER))
    import cluster_readme

    return cluster_readme


def test_readme_says_what_the_records_say(readme):
    text = readme.training_readme.README.read_text(encoding="utf-8")
    section = readme.section(read(readme.RESULTS))
    assert readme.training_readme.written(text, section, readme.START, readme.END) == text


@pytest.mark.parametrize(
    ("ratio", "word"),
    [([1.2, 1.1, 1.3], "helps"), ([0.8, 0.7, 0.9], "harms"), ([1.1, 0.9, 1.3], "no difference shown")],
)
def test_what_does_not_help_is_said(readme, ratio, word):
    records = [record for record in read(readme.RESULTS) if record.kind == "layout"]
    assert records
    changed = [replace(record, values={**record.values, "ratio": ratio}) for record in records]
    section = readme.section(changed)
    assert section.count(f"| {word} |") == len({(r.model, r.settings["change"]) for r in records})
