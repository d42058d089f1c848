"""What is written: a page that holds everything and runs nothing of a stranger's, Markdown, CSV, charts."""

from __future__ import annotations

import csv
import io
import re
import shlex
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from art_lowrank.evaluate.report.chart import Chart, Mark, Series, cost_charts, decades, eps_charts, rank_charts
from art_lowrank.evaluate.report.compare import compared
from art_lowrank.evaluate.report.page import page
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.report.svg import DASHES, SHAPES, svg
from art_lowrank.evaluate.report.tables import COLUMNS, csv_text, markdown

PGD, RANK1 = "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]"
HOSTILE = "<script>alert(1)</script>\"'&|`*[x](javascript:1)\n=1+1"
VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """Elements and texts of a page; every element that is opened must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def seen(folder, held):
    path = folder({PGD: held(0.5), RANK1: {"robust": held(0.6), "outside": 3}}, shape=[1, 8, 8])
    return summary_of(path)


def test_the_page_is_whole_and_asks_for_nothing(seen):
    found = Page(page(seen, None, 0))
    for tag, name, value in found.attributes:
        if name in ("src", "href", "action", "data", "srcset", "poster"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert not {"iframe", "object", "embed", "form", "base"} & set(found.tags)
    assert found.tags.count("script") == 1
    for words in ("50.0 [43.1, 56.9]", "60.0 [53.1, 66.5]", "3 broken outside the ball", "strongest", "torch 2.15.0"):
        assert words in found.text
    assert "url(" not in found.text
    assert "@import" not in found.text


def test_the_policy_lets_only_our_script_run(seen):
    import base64
    import hashlib

    text = page(seen, None, 0)
    script = re.search("<script>(.*)</script>", text, re.DOTALL)[1]
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'" in text


def test_nothing_from_outside_becomes_markup(folder, held):
    plain = Page(page(summary_of(folder({PGD: held(0.5)}, out="plain")), None, 0))
    path = folder({PGD: {"robust": held(0.5), "error": HOSTILE}, HOSTILE: held(0.5)}, model=HOSTILE, data=HOSTILE)
    summary = summary_of(path)
    text = page(summary, compared(summary, summary), 0)
    found = Page(text)
    assert HOSTILE in found.text
    assert found.tags.count("script") == plain.tags.count("script") == 1
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    table = markdown(summary, None)
    assert "<script" not in table
    assert re.search(r"(?<!\\)\[x", table) is None
    assert len({line.count("|") - line.count(r"\|") for line in table.splitlines() if line.startswith("| ")}) == 2


def test_commands_are_safe_to_paste(folder, held):
    path = folder({PGD: held(0.5)}, model="net; rm -rf $(pwd) `x`")
    rows = list(csv.DictReader(io.StringIO(csv_text(summary_of(path)))))
    assert shlex.split(rows[1]["command"]) == [
        "art-lowrank", "evaluate", "--out", "again", "--model", "net; rm -rf $(pwd) `x`", "--data", "digits",
        "--attack", PGD, "--norm", "L2", "--eps", "0.5", "--seed", "0", "--images", "200",
    ]  # fmt: skip


def test_csv_has_a_line_an_attack_and_no_formulas(folder, held):
    path = folder(
        {PGD: {"robust": held(0.5), "dead": held(0.02)}, RANK1: {"robust": held(0.1), "error": "=HYPERLINK()"}}
    )
    lines = list(csv.DictReader(io.StringIO(csv_text(summary_of(path)))))
    assert tuple(lines[0]) == COLUMNS
    assert [line["attack"] for line in lines] == ["clean", PGD, RANK1, "worst of 1"]
    assert lines[1]["accuracy"] == "0.500000"
    assert float(lines[1]["low"]) == pytest.approx(0.4314, abs=1e-4)
    assert lines[1]["flags"] == "4 without gradient"
    assert (lines[1]["norm"], lines[1]["eps"], lines[3]["accuracy"]) == ("L2", "0.5", "0.500000")
    assert lines[2]["error"] == "'=HYPERLINK()"
    assert all(len(line["cells"]) == 12 for line in lines[:3])


def test_markdown_says_n_seeds_and_doubts(seen):
    text = markdown(seen, None)
    assert "of 200 images hold within L2 0.5 against the worst case of 2 attacks (1 seed)" in text
    assert r"| 1 | net | 200 | 100.0 \[98.1, 100.0\] | 50.0 \[43.1, 56.9\] ⚑ |  | broken outside the ball |" in text


def test_every_model_has_a_panel_where_they_are_many(folder, held):
    for model in range(9):
        path = folder({RANK1: held(0.6), "lowrank-pgd[rank=4]": held(0.5)}, model=f"net {model}")
    (board,) = summary_of(path).boards
    charts = list(rank_charts(board))
    assert [chart.title for chart in charts] == [f"net {model}" for model in range(9)]
    assert all(chart.under == "effective rank 4 [4, 4]" for chart in charts)


def test_one_chart_of_few_models(seen):
    (board,) = seen.boards
    assert not list(rank_charts(board))  # one rank only
    gradients, time = cost_charts(board.entries[0])
    assert [mark.x for series in gradients.series for mark in series.marks] == [10, 10]
    assert [mark.x for series in time.series for mark in series.marks] == [2.5, 2.5]  # 0.5 s for 200 images


def test_accuracy_against_eps_starts_at_clean(folder, held):
    for eps, share in ((0.25, 0.7), (0.5, 0.4)):
        path = folder({PGD: held(share)}, eps=eps, clean=held(0.9))
    (chart,) = eps_charts(summary_of(path).entries)
    (line,) = chart.series
    assert [(mark.x, round(mark.y)) for mark in line.marks] == [(0.0, 90), (0.25, 70), (0.5, 40)]


def test_svg_is_well_formed_and_inside_its_frame():
    marks = tuple(Mark(x, y, y - 5, y + 5) for x, y in ((1, 99), (2, 50), (4, 1)))
    ticks = ((1, "1"), (2, "<2>"), (4, "4"))
    chart = Chart(
        "a & b", "x", "y", (Series('"<s>"', marks, ring=1), Series("1", marks[:1], joined=False)), ticks, log_x=True
    )
    root = ET.fromstring(str(svg(chart, 400, 200)))
    assert root.get("aria-label") == "a & b"
    assert "<2>" in [text.text for text in root.iter("text")]
    for path in root.iter("path"):
        if path.get("class") in ("l", "b"):
            pairs = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d")), dtype=float)
            assert len(pairs) in (3, 6)
            assert ((pairs >= 0) & (pairs <= [400, 200])).all()
    assert len([circle for circle in root.iter("circle") if circle.get("class") == "r"]) == 1
    assert len(set(SHAPES)) == len(set(DASHES)) == 8


@pytest.mark.parametrize(("values", "ticks"), [
    ([12, 40], [10, 20, 50]), ([0.3, 4000], [0.1, 1, 10, 100, 1000, 10000]), ([5], [5]),
])  # fmt: skip
def test_ticks_hold_the_values(values, ticks):
    assert [tick for tick, _ in decades(values)] == ticks


def test_png_files_where_matplotlib_is(seen, folder, held):
    pytest.importorskip("matplotlib")
    from art_lowrank.evaluate.report.png import png

    path = folder({RANK1: held(0.6), "lowrank-pgd[rank=4]": held(0.5)}, model="$net_{1}$", out="png")
    (chart,) = rank_charts(summary_of(path).boards[0])
    assert png(chart).startswith(b"\x89PNG")


def test_seeds_are_drawn_once(folder, held):
    for seed in (0, 1):
        for eps, share in ((0.25, 0.7), (0.5, 0.4)):
            path = folder({PGD: held(share)}, eps=eps, seed=seed)
    (chart,) = eps_charts(summary_of(path).entries)
    assert [line.name for line in chart.series] == [PGD]
    found = Page(page(summary_of(path), None, 0))
    assert "least of 2 seeds" in found.text
    assert f"{PGD} (seed 1)" in found.text
    assert "200 images, seeds 0, 1, within L2 0.5" in found.text


def test_a_published_card_stands_beside_the_numbers(folder, held):
    path = folder({PGD: held(0.5)}, model="robustbench:cifar10/L2/Rice2020Overfitting")
    found = Page(page(summary_of(path), None, 0))
    assert "RobustBench’s card, on the whole test set: clean 88.67 %, AutoAttack 67.68 % at L2 0.5." in found.text  # noqa: RUF001
