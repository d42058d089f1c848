"""The page at work: it asks for nothing, sorts, filters, opens what a link names, and runs no text of a record."""

from __future__ import annotations

import re

import pytest

KINDS = ("real", "hostile", "large")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_asks_for_nothing_and_complains_of_nothing(opened, kind, scheme):
    page = opened(kind, color_scheme=scheme)
    for summary in page.locator("details:not([open]) > summary:visible").all()[:5]:
        summary.click()
    page.locator("th button").first.click()
    page.wait_for_load_state("networkidle")
    assert page.heard == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]


def test_the_policy_refuses_what_is_not_its_own(opened):
    page = opened("real")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'bad = 1'}))")
    picture = "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.org/'}))"
    with page.expect_event("requestfailed") as refused:
        page.evaluate(picture)
    assert refused.value.failure == "csp", "refused by the page, before anything is sent"
    assert page.evaluate("typeof bad") == "undefined"
    assert sum("Content Security Policy" in text for text in page.heard) == 2


def test_no_text_of_a_record_is_run_or_becomes_markup(opened, hostile):
    page = opened("hostile")
    assert page.evaluate("window.hacked") is None
    assert page.locator("body script").count() == 1
    assert page.locator("iframe, img, object, embed, link:not([rel=icon]), base, form, [autofocus]").count() == 0
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.name))")
    assert [name for name in set(attributes) if name.startswith("on")] == []
    styles = page.evaluate("[...document.querySelectorAll('[style]')].map(e => e.getAttribute('style'))")
    assert all(re.fullmatch(r"(--[lvh]:[\d.]+;?){3}", style) for style in styles)
    links = page.evaluate("[...document.querySelectorAll('body [href]')].map(e => e.getAttribute('href'))")
    assert all(link.startswith("#") for link in links)
    shown = {re.sub("[\u202a-\u202e\u2066-\u2069]", "\ufffd", name) for name in hostile}  # they turn other text around
    assert set(page.locator("h3").all_text_contents()) == shown
    assert page.title() == "Robustness report: hostile"


def _values(page, column):
    """What the leaderboard's column holds from top to bottom; numbers as numbers, None where there is none."""
    texts = page.evaluate(
        """column => [...document.querySelector('.board').tBodies[0].rows]
            .map(row => row.cells[column]).map(cell => cell.dataset.v ?? cell.textContent.trim())""",
        column,
    )
    numeric = all(re.fullmatch(r"[\d.]*", text) for text in texts)
    return [(float(text) if text else None) if numeric else text for text in texts]


@pytest.mark.parametrize("kind", ["real", "large", "hostile"])
@pytest.mark.parametrize("keyboard", [False, True], ids=["click", "keyboard"])
def test_every_column_sorts_in_both_directions(opened, kind, keyboard):
    page = opened(kind)
    board = page.locator(".board").first
    page.locator(".every").first.check()
    heads = board.locator("thead th").all()
    assert len(heads) - 1 == board.locator("th[data-sort] button").count()  # all but one, which holds words
    for column, head in enumerate(heads):
        if head.get_attribute("data-sort") is None:
            continue
        seen, before = [], sorted(_values(page, column), key=str)
        for _ in range(2):
            button = head.get_by_role("button")
            if keyboard:
                button.focus()
                page.keyboard.press("Enter")
            else:
                button.click()
            seen.append(head.get_attribute("aria-sort"))
            assert board.locator("[aria-sort]").count() == 1
            assert page.locator("#said").text_content().endswith(seen[-1])
            found = _values(page, column)
            assert sorted(found, key=str) == before
            there = [value for value in found if value is not None]
            assert found[len(there) :] == [None] * (len(found) - len(there)), "what is missing comes last"
            # in what order a language puts hostile names is not ours to say
            if kind != "hostile" or not any(isinstance(value, str) for value in there):
                assert there == sorted(there, reverse=seen[-1] == "descending")
        assert sorted(seen) == ["ascending", "descending"]


def test_a_missing_number_is_last_both_ways(opened):
    page = opened("real")
    head = page.locator(".board").first.locator("th.a", has_text="rank=2").get_by_role("button")
    for _ in range(2):
        head.click()
        assert "digits:low-rank" in page.locator(".board").first.locator("tbody tr").last.text_content()


def test_the_filter_narrows_and_says_so(opened):
    page = opened("large")
    words, said, rows = page.locator(".filter"), page.locator("#said"), page.locator(".board tbody tr:visible")
    assert said.get_attribute("aria-live") == "polite"
    words.fill("net01")
    assert rows.count() == 10
    assert said.text_content() == "10 of 24 models shown"
    words.fill("no such model")
    assert rows.count() == 0
    assert said.text_content() == "0 of 24 models shown"
    words.fill("")
    assert rows.count() == 24


def test_without_doubts_only(opened):
    page = opened("hostile")
    rows = page.locator(".board tbody tr:visible")
    assert rows.count() == 6
    page.get_by_label("without doubts only").check()
    assert rows.count() == 0
    page = opened("large")
    page.get_by_label("without doubts only").check()
    assert page.locator(".board tbody tr.doubted:visible").count() == 0
    assert page.locator(".board tbody tr:visible").count() == page.locator(".board tbody tr:not(.doubted)").count() > 0


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_every_attack_shows_and_hides_columns(opened, script):
    page = opened("real", java_script_enabled=script)
    section = page.locator("section", has=page.locator(".board")).first
    columns, box = section.locator("th.a:visible"), section.get_by_label("a column for each attack")
    assert columns.count() == 4
    box.uncheck()
    assert columns.count() == 0
    assert page.locator(".board").nth(1).locator("th.a:visible").count() == 1, "the other leaderboard keeps its own"
    box.check()
    assert columns.count() == 4
    assert opened("large", java_script_enabled=script).locator("th.a:visible").count() == 0, "twelve begin hidden"


def test_it_is_readable_without_scripts(opened):
    page = opened("large", java_script_enabled=False)
    assert page.locator(".board tbody tr:visible").count() == 24
    assert page.locator(".filter:visible, th button:visible").count() == 0, "what would not work is not there"
    models = page.locator("details.model")
    assert models.count() == 24
    shut = models.last
    assert shut.get_attribute("open") is None
    shut.locator("> summary").click()
    assert shut.locator(".attacks tbody tr:visible").count() == 14  # clean, twelve attacks, the worst of them
    shut.get_by_text("command").first.click()
    assert "art-lowrank evaluate" in shut.locator("code:visible").first.text_content()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_link_opens_the_model_it_names(opened, script):
    page = opened("large", java_script_enabled=script)
    part = page.locator("details.model").last
    link = page.locator(".board tbody th a").last
    assert link.text_content() == part.locator("h3").text_content()
    link.click()
    page.wait_for_function("window.scrollY > 0") if script else page.wait_for_timeout(500)
    assert part.locator(".attacks").is_visible()
    assert part.locator("summary").first.bounding_box()["y"] >= 0, "its name is in sight"
    if script:  # again, although the address does not change
        part.locator("summary").first.click()
        assert not part.locator(".attacks").is_visible()
        link.click()
        part.locator(".attacks").wait_for(state="visible", timeout=2000)
    direct = opened("large", hash=page.url[page.url.index("#") :], java_script_enabled=script)
    assert direct.locator("details.model").last.locator(".attacks").is_visible()
