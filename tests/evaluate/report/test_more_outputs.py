"""Tables, pictures and charts read back as a reader's program reads them; names that try to do something."""

from __future__ import annotations

import base64
import csv
import io
import re
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from art_lowrank.cli import main
from art_lowrank.evaluate import evaluate, plan_of
from art_lowrank.evaluate.report.chart import Chart, Mark, Series, eps_charts
from art_lowrank.evaluate.report.page import page
from art_lowrank.evaluate.report.pictures import picture, spectra
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.report.svg import svg
from art_lowrank.evaluate.report.tables import csv_text, curves_text, markdown
from art_lowrank.evaluate.report.words import NONE, against_strongest, seeds

PGD, RANK1 = "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]"
STARTS = ("=", "+", "-", "@")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A real folder with one slice, a clean cell and two attacks."""
    out = tmp_path_factory.mktemp("evaluated")
    attacks = ["lowrank-pgd[rank=1,steps=3]", "lora-pgd[rank=2,steps=3]"]
    evaluate(plan_of({"models": ["digits:standard"], "attacks": attacks, "images": 30}), out, verbose=False)
    return out


@pytest.fixture
def changed(evaluated, tmp_path):
    """The real folder with the tensors of one row (0 is the clean one) changed."""

    def change(row, tensors):
        out = tmp_path / "changed"
        (out / "images").mkdir(parents=True)
        (out / "records.jsonl").write_bytes((evaluated / "records.jsonl").read_bytes())
        cells = [record.settings["cell"] for record in summary_of(evaluated).records]
        for place, cell in enumerate(cells):
            found = load_file(evaluated / "images" / f"{cell}.safetensors")
            found = tensors(found) if place == row else found
            save_file(
                {name: value.contiguous() for name, value in found.items()}, out / "images" / f"{cell}.safetensors"
            )
        return out

    return change


def pixels_of(src):
    """A PNG in a data address as (h, w, c) bytes; lines without a filter only."""
    data = base64.b64decode(src.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    parts, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + content),)
        parts[kind], at = content, at + 12 + size
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert depth == 8
    channels = {0: 1, 2: 3}[colour]
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_hold_the_pixels(channels):
    known = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    found = pixels_of(picture(known.transpose(2, 0, 1) / 255.0, "words").src)
    assert found.shape == known.shape
    assert (found == known).all()


def test_pictures_clip_and_have_no_nan():
    image = np.array([[[np.nan, -1.0, 2.0, 0.5]]])
    assert pixels_of(picture(image, "").src)[0, :, 0].tolist() == [0, 0, 255, 128]


def test_of_four_channels_the_first_is_shown():
    assert (pixels_of(picture(np.eye(4)[:, :, None].repeat(5, 2), "").src)[:, :, 0].T == [255, 0, 0, 0]).all()


@pytest.mark.parametrize("letter", ["\t", "\r", "\n", "\r\n", "=", "+", "-", "@", '"', ",", "\n=", "\t@", " -"])
def test_csv_is_read_back_with_as_many_rows_and_no_formulas(folder, held, letter):
    breaking = [1.0] * 50 + [None] * 150
    values = {"robust": [at is None for at in breaking], "breaking": breaking, "values": [1, 2], "along": "rank"}
    name = f"{letter}1+1{letter}|x"
    attacks = {name: held(0.5), "rank-curve": values, "other": {"robust": held(0.5), "error": name}}
    summary = summary_of(folder(attacks, model=name, data=name))
    for text, count in ((csv_text(summary), 1 + 5), (curves_text(summary), 1 + 2)):
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len(rows) == count
        assert {len(row) for row in rows} == {len(rows[0])}
        assert not [cell for row in rows for cell in row if cell.lstrip().startswith(STARTS)]
        assert not [cell for row in rows for cell in row if set("\t\r\n") & set(cell)]


def test_points_of_curves_are_those_of_the_rows(folder):
    breaking = [1.0] * 43 + [2.0] * 14 + [8.0] * 14 + [None] * 29  # 100 * 0.29 is 28.999...
    values = {"robust": [at is None for at in breaking], "breaking": breaking, "along": ""}
    attacks = {"rank-curve": {**values, "values": [1, 2, 8]}, "eps-curve[eps=[1,2,8]]": {**values, "values": [1, 2, 8]}}
    summary = summary_of(folder(attacks, eps=8))
    lines = list(csv.DictReader(io.StringIO(curves_text(summary))))
    found = [(line["attack"], line["along"], float(line["value"]), float(line["accuracy"])) for line in lines]
    known = zip(attacks, ("rank", "eps"), summary.entries[0].rows, strict=True)
    assert found == [(name, along, *point) for name, along, row in known for point in row.curve]
    assert [share for *_, share in found] == 2 * [0.57, 0.43, 0.29]
    assert {(line["norm"], line["eps"], line["images"]) for line in lines} == {("L2", "8", "100")}


def test_worst_cases_in_the_table(folder, held):
    for eps, share in ((0.25, 0.8), (0.5, 0.6)):
        path = folder({PGD: held(share), RANK1: held(share, seed=1)}, eps=eps)
    lines = [line for line in csv.DictReader(io.StringIO(csv_text(summary_of(path)))) if "worst" in line["attack"]]
    rights = [int((held(share) & held(share, seed=1)).sum()) for share in (0.8, 0.6)]
    assert [(line["attack"], line["eps"], int(line["right"]), line["seed"], line["command"]) for line in lines] == [
        ("worst of 2", eps, right, "", "") for eps, right in zip(("0.25", "0.5"), rights, strict=True)
    ]


@pytest.mark.parametrize("name", ["- x", "1. x", "+ x", "* x", "12) x", "# x"])
def test_names_begin_no_list_and_no_heading(folder, held, name):
    lines = markdown(summary_of(folder({PGD: held(0.5)}, model=name)), None).splitlines()
    (sentence,) = (line for line in lines if "images hold within" in line)
    assert re.match(r"\d*\\[-+.)*#]", sentence)
    assert sum(line.startswith(("- ", "+ ", "* ", "# ")) for line in lines) == 1  # the title
    (board,) = (line for line in lines if line.startswith("| 1 |"))
    assert re.match(r"\| 1 \| \d*\\[-+.)*#]", board)


def test_doubts_are_explained_in_markdown(folder, held):
    text = markdown(summary_of(folder({PGD: {"robust": held(0.5), "outside": 2}}, doubts=["randomised"])), None)
    explained = text.partition("## Doubts explained\n")[2].strip().splitlines()
    assert [line.partition(":")[0] for line in explained] == ["- randomised", "- broken outside the ball"]
    assert all(len(line.partition(": ")[2]) > 20 for line in explained)


def test_the_leaderboard_shows_the_lowest_seed(folder, held):
    for seed, share in ((0, 0.6), (1, 0.5), (2, 0.55)):
        path = folder({PGD: held(share)}, seed=seed)
    text = page(summary_of(path), None, 0)
    before = text[: text.index("least of 3 seeds")]
    assert "50.0" in before[before.rindex("<td") :]


@pytest.mark.parametrize("letter", ["\u202e", "\x1b", "\0", "\ud800", "\x9b", "\u2066"])
def test_letters_that_do_something_come_nowhere(folder, held, letter):
    name = f"a{letter}[31mb"
    attacks = {PGD: held(0.5), name: {"robust": held(0.5), "error": name}}
    path = folder(attacks, model=name, data=f"data{letter}", doubts=[name])
    done = CliRunner().invoke(main, ["report", str(path), "--fail-under", "robust=0.9"])
    assert isinstance(done.exception, SystemExit)
    if letter == "\ud800":
        assert (done.exit_code, done.output.count("\n")) == (1, 1)
        assert not (path / "report").exists()
    else:
        assert done.exit_code == 4
        texts = [file.read_text() for file in (path / "report").iterdir() if file.suffix != ".png"]
        assert len(texts) == 4
        assert not [text for text in (*texts, done.output) if letter in text]
    assert letter not in done.output


def test_what_saw_other_images_has_no_distance(folder, held):
    folder({PGD: held(0.1, 100)}, clean=held(1.0, 100))
    folder({RANK1: held(0.6)}, seed=0)
    (entry,) = summary_of(folder({RANK1: held(0.5), "apgd-ce": held(0.5)}, seed=1)).entries
    assert [against_strongest(entry, row) for row in entry.rows if row.attack == PGD] == [NONE]
    assert seeds(entry) == "1 to 2 seeds"


def test_shares_in_charts_are_counts(folder, held):
    for eps, right in ((0.25, 57), (0.5, 29)):  # 100 * 0.29 is 28.999...
        path = folder({PGD: held(right / 100, 100)}, eps=eps)
    (chart,) = eps_charts(summary_of(path).entries)
    assert [round(mark.y, 9) for mark in chart.series[0].marks] == [100, 57, 29]


@pytest.mark.parametrize("log", [False, True])
def test_marks_beyond_the_ticks_stay_inside_the_frame(log):
    marks = (Mark(1, 250, 0.001, 900), Mark(2, 1e-9, 1e-12, 300))
    ticks = (0.1, 1, 10, 100) if log else (0, 50, 100)
    chart = Chart("t", "x", "y", (Series("s", marks),), ((1, "1"), (2, "2")), y_ticks=ticks, log_y=log)
    root = ET.fromstring(str(svg(chart, 400, 200)))
    found = [path.get("d") for path in root.iter("path") if path.get("class") in ("l", "b")]
    pairs = np.array(re.findall(r"([-\d.]+) ([-\d.]+)", " ".join(found)), dtype=float)
    assert len(pairs) == 6
    assert ((pairs >= [0, 10]) & (pairs <= [400, 160])).all()


def test_an_image_left_alone_gives_no_nan_in_spectra(evaluated, changed):
    clean = summary_of(evaluated).records[0].settings["cell"]
    x = load_file(evaluated / "images" / f"{clean}.safetensors")["x"]

    def alone(kept):
        moved = kept["x"].clone()
        moved[:2] = x[kept["rows"][:2]].to(moved)
        return {**kept, "x": moved}

    path = changed(1, alone)
    chart = spectra(path, summary_of(path).entries[0])
    assert len(chart.series) == 2
    assert np.isfinite([mark for line in chart.series for mark in line.marks]).all()
    assert all(line.marks[0].y == 1 for line in chart.series)


@pytest.mark.parametrize(("damage", "whole"), [
    (lambda kept: {**kept, "x": kept["x"].bfloat16()}, None),
    (lambda kept: {**kept, "rows": kept["rows"][:, None]}, False),
    (lambda kept: {**kept, "said": kept["said"][:, None].repeat(1, 2)}, False),
    (lambda kept: {**kept, "y": kept.get("y", kept["rows"])[:3].clone()}, False),
    (lambda kept: {"x": kept["x"]}, False),
    (lambda kept: {name: value for name, value in kept.items() if name != "x"}, False),
    (lambda kept: {**kept, "x": torch.full_like(kept["x"], torch.nan)}, True),
    (lambda kept: {**kept, "x": kept["x"].repeat(1, 4, 1, 1)}, None),
    (lambda kept: {**kept, "x": kept["x"][:, :, :, :0]}, None),
    (lambda kept: {**kept, "rows": kept["rows"] + 1000}, False),
    (lambda kept: {name: value[:0] for name, value in kept.items()}, None),
])  # fmt: skip
@pytest.mark.parametrize("row", [0, 1])
def test_damaged_images_do_not_stop_a_report(changed, damage, whole, row):
    path = changed(row, damage)
    done = CliRunner().invoke(main, ["report", str(path)])
    assert done.exit_code == 0, done.output
    text = (path / "report" / "index.html").read_text()
    assert not re.search(r"\bnan\b", "".join(re.findall("<svg.*?</svg>", text, re.DOTALL)))
    if whole is not None and (row or not whole):
        assert ("No pictures: " in text) is not whole
        assert ("Singular values of" in text) is whole
