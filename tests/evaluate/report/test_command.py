"""`art-lowrank report` as a user calls it, on real evaluations: files, words, exit codes, commands that reproduce."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from html import unescape

import pytest
from click.testing import CliRunner

from art_lowrank.cli import main
from art_lowrank.evaluate import evaluate, plan_of

PGD, RANK1 = "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]"


@pytest.fixture
def report():
    def call(*arguments):
        return CliRunner().invoke(main, ["report", *map(str, arguments)])

    return call


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A real folder: two models, two seeds, slices, curves, survivors are left out."""
    out = tmp_path_factory.mktemp("evaluated")
    attacks = [
        "lowrank-pgd[rank=1,steps=3]",
        "lora-pgd[rank=2,steps=3]",
        "rank-curve[steps=4]",
        "eps-curve[eps=[8/255,0.5],rank=1,steps=4]",
    ]
    plan = plan_of(
        {
            "models": ["digits:standard", "digits:low-rank"],
            "attacks": attacks,
            "images": 50,
            "slice": 20,
            "seeds": [0, 3],
        }
    )
    evaluate(plan, out, verbose=False)
    return out


def test_everything_is_written(report, evaluated):
    done = report(evaluated)
    assert done.exit_code == 0, done.output
    names = {path.name for path in (evaluated / "report").iterdir()}
    assert {"index.html", "report.md", "report.csv"} <= names
    assert done.output.splitlines()[0] == "digits, L2 0.5, 50 images"
    assert done.output.splitlines()[-1] == f"Report: {evaluated / 'report' / 'index.html'}"
    text = (evaluated / "report" / "index.html").read_text()
    assert text.count("data:image/png;base64") == 2 * 4 * 5  # two models, four images, clean and two attacks
    assert "Singular values" in text
    assert "effective rank" in text


def test_the_commands_reproduce_their_cells(report, evaluated, tmp_path, stable, monkeypatch):
    """Every command of the page, run as it stands, gives the records it stands beside."""
    assert report(evaluated).exit_code == 0
    with (evaluated / "report" / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    page = (evaluated / "report" / "index.html").read_text()
    lines = [line for line in lines if line["command"]]  # not those of worst cases
    assert {line["command"] for line in lines} == set(
        map(unescape, re.findall("<code>(art-lowrank evaluate .*?)</code>", page))
    )
    known = stable(evaluated)
    monkeypatch.chdir(tmp_path)
    again = [line for line in lines if line["seed"] != "0"]
    for line in again:
        assert CliRunner().invoke(main, [*shlex.split(line["command"])[1:], "--quiet"]).exit_code == 0
    found = stable(tmp_path / "again")
    assert {cell for line in again for cell in line["cells"].split()} <= set(found) <= set(known)  # and the clean ones
    assert found == {cell: known[cell] for cell in found}


def test_survivors_batches_and_slices_are_in_the_command(report, tmp_path, monkeypatch, stable):
    attacks = [f"lowrank-pgd[rank={rank},steps=3]" for rank in (1, 2)]
    ball = {"norm": "inf", "eps": 8 / 255}
    some = {"images": 30, "slice": 20, "survivors": True, "batch_size": 7}
    plan = plan_of({"models": ["digits:standard"], "attacks": attacks, **ball, **some})
    evaluate(plan, tmp_path / "first", verbose=False)
    assert report(tmp_path / "first").exit_code == 0
    with (tmp_path / "first" / "report" / "report.csv").open() as file:
        command = list(csv.DictReader(file))[-2]["command"]
    assert "--survivors" in command
    assert "--batch-size 7" in command
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, [*shlex.split(command)[1:], "--quiet"]).exit_code == 0
    assert stable("again") == stable("first")


def test_no_torch_is_imported(evaluated, tmp_path):
    code = (
        "import sys; from click.testing import CliRunner; from art_lowrank.cli import main\n"
        f"done = CliRunner().invoke(main, ['report', {str(evaluated)!r}, '--out', {str(tmp_path / 'r')!r}])\n"
        "assert done.exit_code == 0, done.output\n"
        "print([name for name in ('torch', 'art', 'sklearn') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert shown.stdout.strip() == "[]"


def test_without_pictures_it_says_why(report, evaluated, folder, held):
    path = folder({PGD: held(0.5), RANK1: held(0.6)})
    assert report(path).exit_code == 0
    text = (path / "report" / "index.html").read_text()
    assert "No pictures: the images were not kept (--no-images), or by an older version." in text
    assert report(path, "--gallery", 0).exit_code == 0
    assert "No pictures" not in (path / "report" / "index.html").read_text()


def test_damaged_pictures_do_not_stop_a_report(report, tmp_path):
    plan = plan_of({"models": ["digits:standard"], "attacks": ["lowrank-pgd[rank=1,steps=3]"], "images": 20})
    evaluate(plan, tmp_path / "out", verbose=False)
    for path in (tmp_path / "out" / "images").iterdir():
        path.write_bytes(b"not safetensors")
    assert report(tmp_path / "out").exit_code == 0
    assert "No pictures: " in (tmp_path / "out" / "report" / "index.html").read_text()


@pytest.mark.parametrize(("bound", "code", "words"), [
    ("robust=0.45", 0, ""), ("robust=0.5", 0, ""), ("clean=1", 0, ""),
    ("robust=0.51", 4, "FAILED: net on digits, L2 0.5: robust accuracy 50.0 % [43.1, 56.9] is below 51 %"),
])  # fmt: skip
def test_fail_under(report, folder, held, bound, code, words):
    done = report(folder({PGD: held(0.5)}), "--fail-under", bound)
    assert done.exit_code == code
    assert words in done.output


def test_a_missing_number_is_a_failure(report, folder, held):
    path = folder({PGD: {"robust": held(0.5), "error": "no"}, RANK1: held(0.9)})
    assert report(path).exit_code == 0
    done = report(path, "--fail-under", "robust=0.1")
    assert done.exit_code == 4
    assert f"L2 0.5: robust accuracy is not known, {PGD} failed or saw other images (10 % wanted)" in done.output


@pytest.mark.parametrize("bound", ["robust", "robust=45", "rbust=0.4", "robust=", "robust=nan", "=0.3"])
def test_a_bound_that_is_none(report, folder, held, bound):
    done = report(folder({PGD: held(0.5)}), "--fail-under", bound)
    assert done.exit_code == 2
    assert f"{bound!r} is no bound; give robust=0.45" in done.output


def test_fail_on_doubt(report, folder, held):
    assert report(folder({PGD: held(0.5)}, out="sound"), "--fail-on-doubt").exit_code == 0
    done = report(folder({PGD: held(0.5)}, doubts=["randomised"]), "--fail-on-doubt")
    assert done.exit_code == 5
    assert "doubtful: randomised" in done.output
    assert "FAILED: doubt: net, randomised" in done.output


def test_compare(report, folder, held):
    before, now = folder({PGD: held(0.5)}, out="before"), folder({PGD: held(0.3)}, out="now")
    done = report(now, "--compare", before)
    assert done.exit_code == 6
    assert "FAILED: worse: net on digits, " in done.output
    assert "worse, -20.0 points" in done.output
    assert report(before, "--compare", now).exit_code == 0  # better
    assert report(now, "--compare", now).exit_code == 0
    assert "What changed since" in (now / "report" / "index.html").read_text()


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: path / "nowhere", "there is no folder"),
    (lambda path: path, "holds no records.jsonl"),
])  # fmt: skip
def test_a_folder_that_is_none_is_one_line(report, tmp_path, make, words):
    done = report(make(tmp_path))
    assert done.exit_code == 1
    assert words in done.output
    assert done.output.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(report, folder, held, tmp_path):
    (tmp_path / "file").write_text("")
    done = report(folder({PGD: held(0.5)}), "--out", tmp_path / "file")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "file" in done.output


def test_a_report_is_a_pure_function_of_the_records(report, evaluated, tmp_path):
    for name in ("one", "two"):
        assert report(evaluated, "--out", tmp_path / name).exit_code == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_large_report_is_small_and_quick(report, folder, held, tmp_path):
    """A tenth of the measured one: 20 models x 10 attacks."""
    shares = {f"lowrank-pgd[rank={rank},steps=20]": 0.7 - 0.01 * rank for rank in range(1, 11)}
    for model in range(20):
        path = folder({attack: held(share - 0.01 * model) for attack, share in shares.items()}, model=f"net {model}")
    assert report(path).exit_code == 0
    assert (path / "report" / "index.html").stat().st_size < 400_000
    assert json.loads((path / "records.jsonl").read_text().splitlines()[0])["kind"] == "evaluation"


def test_the_folder_one_is_in_has_a_name(report, folder, held, monkeypatch):
    monkeypatch.chdir(folder({PGD: held(0.5)}, out="nightly"))
    assert report(".").exit_code == 0
    with open("report/index.html") as file:
        assert "<title>Robustness report: nightly</title>" in file.read()
