"""The numbers in the README are those of the records, written by the command that is named beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def readme(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "integration" / "peers"))
    import readme

    return readme


def test_readme_says_what_the_records_say(readme):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.written(text, readme.section(*readme.records())) == text


def test_every_record_names_what_it_was_made_with(readme):
    strength, timing = readme.records()
    assert len(strength) > 100
    for record in [*strength, *timing]:
        assert record.versions["torch"]
        assert record.values
    digests = {r.versions["art-lowrank-attack-source"] for r in strength if r.attack.startswith(("lowrank", "lora"))}
    assert len(digests) == 1
