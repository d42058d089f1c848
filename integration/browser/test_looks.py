"""The page for every eye, hand and paper: narrow windows, keyboards, screen readers, printers, colour vision."""

from __future__ import annotations

import io
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest

from art_lowrank.evaluate.report.svg import DASHES, SHAPES

KINDS = ("real", "hostile", "large")
SCHEMES = ("light", "dark")
SERIES = [f"c{number}" for number in range(8)]
OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"
# what can be reached by Tab, in the order of the page; what is in a closed part cannot
REACHABLE = """[...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
    .filter(e => e.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true}))"""
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SIGHT = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_does_not_scroll_sideways(opened, kind, width):
    page = opened(kind, width=width)
    page.locator(".every").first.check()
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width == page.evaluate("innerWidth")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(opened, kind, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(kind, width=width, color_scheme=scheme)
    page.locator(".every").first.check()
    if kind != "large":
        page.evaluate(OPEN_ALL)
    found = axe.run(page, options={"rules": {"target-size": {"enabled": True}}, "resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()


def test_all_is_reached_by_tab_and_its_focus_is_seen(opened):
    page = opened("real")
    wanted = page.evaluate(f"(window.wanted = {REACHABLE}).length")
    seen = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("""() => {
                const e = document.activeElement, seen = getComputedStyle(e);
                return [window.wanted.indexOf(e), seen.outlineStyle, parseFloat(seen.outlineWidth), seen.outlineColor]
            }""")
        )
    assert [place for place, *_ in seen] == list(range(wanted))
    link = page.evaluate("(() => { const a = document.querySelector('nav a'); return getComputedStyle(a).color })()")
    for place, style, width, colour in seen:
        assert style == "solid", place
        assert width >= 2, place
        assert colour == link, place


def test_the_keyboard_opens_filters_and_skips(opened):
    page = opened("real")
    page.keyboard.press("Tab")
    assert page.locator(".skip").bounding_box()["x"] >= 0, "it is seen while it has the focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    shut = page.locator("details.model:not([open]) > summary").first
    shut.focus()
    shut.evaluate("e => window.before = e.parentElement")
    page.keyboard.press("Enter")
    assert page.evaluate("window.before.open")
    box = page.locator(".every").first
    box.focus()
    page.keyboard.press("Space")
    assert not box.is_checked()


def _printed(page):
    pdf = pytest.importorskip("pypdf").PdfReader(io.BytesIO(page.pdf(format="A4")))
    return "".join(_bare(sheet.extract_text()) for sheet in pdf.pages)


def _bare(text):
    """Without spaces and ligatures, of which paper has others."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("kind", ["real", "large"])
def test_the_print_shows_every_attack_on_every_model(opened, kind, script):
    page = opened(kind, java_script_enabled=script)
    shut = page.locator("details:not([open])").count()
    assert shut > 0
    text = _printed(page)
    assert page.locator("details:not([open])").count() == shut, "and are shut again"
    text = text[text.index("Everyattackoneverymodel") : text.index("WhichnumberdoIreport?")]
    parts = re.split("Gradientsandmillisecondsarethose", text)[1:]
    assert len(parts) == page.locator("details.model").count()
    for part, table in zip(parts, page.locator("table.attacks").all(), strict=True):
        names = table.evaluate("t => [...t.tBodies[0].rows].map(row => row.querySelector('th').firstChild.textContent)")
        numbers = re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", table.inner_text())
        for printed in (*names, *numbers):
            assert _bare(printed) in part


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_on_paper(opened, kind):
    a4 = 703  # pixels of a sheet between the margins of style.css
    page = opened(kind, width=a4)
    page.locator(".every").first.check()
    page.evaluate(OPEN_ALL)
    page.emulate_media(media="print")
    wide = """limit => [...document.querySelectorAll('main *:not(svg *)')]
        .filter(e => e.checkVisibility() && !e.closest('.hidden') && e.getBoundingClientRect().right > limit + 1)
        .map(e => e.outerHTML.slice(0, 120))"""
    assert page.evaluate(wide, a4) == []
    hidden = "[...document.querySelectorAll('.scroll')].map(e => getComputedStyle(e).overflowX)"
    assert set(page.evaluate(hidden)) == {"visible"}


def test_dark_schemes_print_on_white(opened):
    page = opened("real", color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert _colours(page)["paper"] == pytest.approx((1, 1, 1))
    assert _contrast(_colours(page)["ink"], (1, 1, 1)) > 15


def test_motion_is_reduced_where_asked(opened):
    smooth = "getComputedStyle(document.documentElement).scrollBehavior"
    assert opened("real").evaluate(smooth) == "smooth"
    still = opened("real", reduced_motion="reduce")
    assert still.evaluate(smooth) == "auto"
    moving = "[...document.querySelectorAll('*')].some(e => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
    assert not still.evaluate(moving)
    assert still.evaluate("document.getAnimations().length") == 0


def test_eight_lines_have_eight_marks_and_patterns(opened):
    page = opened("eight")
    figure = page.locator("#board-1 figure").first
    assert figure.locator(".legend li").count() == len(set(SHAPES)) == len(set(DASHES)) == 8
    lines = figure.locator("svg[role=img] > g").all()
    assert len(lines) == 8
    for line, sample, shape, dash in zip(lines, figure.locator("svg.key").all(), SHAPES, DASHES, strict=True):
        for drawn in (line, sample):
            assert (drawn.locator(".l").first.get_attribute("stroke-dasharray") or "") == dash
            assert {mark.get_attribute("d") for mark in drawn.locator(".m").all()} == {shape}
            box = drawn.locator(".m").first.bounding_box()
            assert min(box["width"], box["height"]) >= 5
    pictures = [sample.screenshot() for sample in figure.locator("svg.key").all()]
    assert len(set(pictures)) == 8


def _colours(page):
    """The page's colours by name, sRGB from 0 to 1."""
    names = ["paper", "ink", "soft", "line", "wash", "link", "flag", *SERIES]
    read = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    texts = ["#" + "".join(c * 2 for c in text[1:]) if len(text) == 4 else text for text in page.evaluate(read, names)]
    return {
        name: tuple(bytes.fromhex(text[1:])[i] / 255 for i in range(3)) for name, text in zip(names, texts, strict=True)
    }


def _linear(colour):
    colour = np.asarray(colour)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def _contrast(one, other):
    """WCAG 2's."""
    dark, light = sorted(float(XYZ[1] @ _linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def _lab(linear):
    at = XYZ @ np.clip(linear, 0, 1) / XYZ.sum(1)
    f = np.where(at > (6 / 29) ** 3, np.cbrt(at), at * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_yardsticks():
    assert _contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert _lab(_linear((1, 0, 0))) == pytest.approx([53.24, 80.09, 67.2], abs=0.05)
    assert all(np.sum(matrix, axis=1) == pytest.approx(1, abs=1e-4) for matrix in SIGHT.values()), "grey stays grey"


@pytest.mark.parametrize("scheme", [*SCHEMES, "print"])
def test_contrast(opened, scheme):
    page = opened("real", color_scheme="dark" if scheme == "dark" else "light")
    page.emulate_media(media="print" if scheme == "print" else "screen")
    colours = _colours(page)
    for name in ("ink", "soft", "link", "flag"):
        for ground in ("paper", "wash"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in (*SERIES, "soft"):  # soft frames the search; lines between rows carry nothing
        assert _contrast(colours[name], colours["paper"]) >= 3, name
    assert _contrast(colours["c0"], colours["line"]) >= 3, "a bar on its track"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sight", [None, *SIGHT])
def test_neighbouring_colours_are_told_apart(opened, scheme, sight):
    """Neighbours in the legend by colour alone; all others at least with marks and patterns, see above."""
    colours = _colours(opened("real", color_scheme=scheme))
    matrix = np.array(SIGHT[sight]) if sight else np.eye(3)
    seen = {name: _lab(matrix @ _linear(colours[name])) for name in SERIES}
    neighbours = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in pairwise(SERIES)}
    assert min(neighbours.values()) >= 15, neighbours
