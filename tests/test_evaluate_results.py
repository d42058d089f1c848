"""The README's lines on what the engine costs are written from the records, and say what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from art_lowrank.record import read

FOLDER = Path(__file__).parents[1] / "integration" / "evaluate"


@pytest.fixture
def readme(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("this copy of the tests has no integration folder")
    monkeypatch.syspath_prepend(str(FOLDER))
    import cost_readme

    return cost_readme


def test_readme_says_what_the_records_say(readme):
    text = readme.README.read_text(encoding="utf-8")
    section = readme.section(read(readme.RESULTS))
    assert readme.training_readme.written(text, section, readme.START, readme.END) == text


def test_a_dear_engine_would_be_said(readme):
    records = read(readme.RESULTS)
    cheap = [
        replace(r, values={"value": 1.02, "low": 1.01, "high": 1.03, "bytes": 2e6}, volatile={"seconds": [4.0]})
        for r in records
    ]
    assert "**missed**" not in readme.section(cheap)
    assert readme.section(cheap).count("**met**") == 3
    dear = [replace(r, values={"value": 1.2, "low": 1.1, "high": 1.3, "bytes": 4e6}) for r in records]
    assert readme.section(dear).count("**missed**") == 3
