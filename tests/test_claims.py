"""The promises in the README are judged from the records, by the command that is named beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from art_lowrank.record import pack, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "integration" / "claims"


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import claims_readme

    return claims_readme


@pytest.fixture
def records(claims):
    if not claims.RESULTS.exists():
        pytest.skip("nothing is recorded yet: run integration/claims/claims.py")
    return read(claims.RESULTS)


def test_readme_says_what_the_records_say(claims, records):
    text = claims.README.read_text(encoding="utf-8")
    if not claims.marked(text):
        pytest.skip("the README has no markers for this section yet")
    assert claims.written(text, claims.section(records)) == text


def test_every_promise_is_measured_with_one_source(claims, records):
    book = claims.Book(records)
    assert not [one.target for one in claims.verdicts(book, claims.N) if one.word == "not measured"]
    for name in ("torch", "art-lowrank-attack-source"):
        assert len({record.versions[name] for record in book.records.values()}) == 1


def test_without_records_nothing_is_met(claims):
    words = {one.word for one in claims.verdicts(claims.Book([]), claims.N)}
    assert words == {"not measured"}


@pytest.mark.parametrize(("lost", "word"), [(2, "missed"), (4, "met")])
def test_a_target_is_judged_from_paired_outcomes(claims, lost, word):
    """Ours breaks `lost` of 100 images more than the other, on every net; 3 points were promised."""
    import linf_ball

    exact = {"in_box": True, "excess": 0.0, "largest_tail_of_factors": 0.0, "largest_miss_of_factors": 0.0}

    def filled(trial, broken):
        return replace(trial.asked, values={**exact, "broken": pack([i < broken for i in range(100)])})

    pairs = [(linf_ball.linf(net, 100, 3), linf_ball.four_rounds(net, 100)) for net in linf_ball.NETS]
    found = [filled(trial, broken) for pair in pairs for trial, broken in zip(pair, (50 + lost, 50), strict=True)]
    first = linf_ball.verdicts(claims.Book(found), 100)[0]
    assert first.measured == f"{-lost:+.2f} points"
    assert first.word == word
