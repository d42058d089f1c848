"""Damage, exit codes, commands and comparisons: whatever lies in a folder, a report is whole or one line."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import sys
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from jinja2 import Environment, FileSystemBytecodeCache
from torch import nn

from art_lowrank.cli import main
from art_lowrank.evaluate import evaluate, plan_of
from art_lowrank.evaluate.batches import Size
from art_lowrank.evaluate.checks import dynamic
from art_lowrank.evaluate.plan import Plan, slices
from art_lowrank.evaluate.report.summary import summary_of
from art_lowrank.evaluate.report.tables import csv_text

PGD, RANK1 = "torchattacks:PGDL2[steps=20]", "lowrank-pgd[rank=1]"
KINDS = [None, True, -1, 10**400, "x", [], {}, [None], "\ud800"]
SETTINGS = ["cell", "start", "stop", "meant", "meant.model", "meant.data", "meant.attack", "meant.after"]
VALUES = ["status", "robust", "right", "model_hash", "data_hash"]
CLEANS = ["classes", "doubts", "most_common", "shape", "zero_gradients", "gradients_looked_at"]
ATTACKS = ["attacked", "threat", "distance_max", "gradients", "values", "breaking", "outside", "unreadable", "dead"]
FAILED = ["status", "error", "type", "traceback"]
OTHERS = ["volatile.seconds", "volatile.finished", "volatile.device", "volatile.batch_size", "versions.torch"]
TOP = ["kind", "model", "data", "attack", "seed", "n", "settings", "values", "volatile", "versions", "schema"]
FIELDS = [*TOP, *(f"settings.{name}" for name in SETTINGS), *OTHERS]
CASES = [
    *((0, field) for field in [*FIELDS, *(f"values.{name}" for name in VALUES + CLEANS)]),
    *(
        (1, field)
        for field in [*FIELDS, *(f"values.{name}" for name in VALUES + ATTACKS), "settings.meant.attack.threat"]
    ),
    *((2, f"values.{name}") for name in FAILED),
]


@pytest.fixture
def report():
    def call(*arguments):
        return CliRunner().invoke(main, ["report", *map(str, arguments)])

    return call


def lines_of(path):
    return (path / "records.jsonl").read_text().splitlines(keepends=True)


def failures(done):
    lines = [line for line in done.output.splitlines() if line.startswith("FAILED: ")]
    return [line for line in lines if "cells, see the marks" not in line]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where jinja2 keeps templates that it has compiled."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("compiled")))


@pytest.fixture
def quick(monkeypatch, compiled):
    """Reports without what takes most of their time: no PNG files, and templates are compiled once."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    monkeypatch.setattr("art_lowrank.evaluate.report.page.Environment", partial(Environment, bytecode_cache=compiled))


@pytest.mark.parametrize(("row", "field"), CASES)
@pytest.mark.usefixtures("quick")
def test_any_value_anywhere_is_a_report_or_one_line(report, folder, row, field):
    """Of every field all kinds of JSON, in the clean record, one of a curve, and one of a failure."""
    breaking = [0.25, 0.25, 0.5, None, None, None, None, None]
    robust = [at is None for at in breaking]
    values = {"robust": robust, "breaking": breaking, "values": [0.25, 0.5], "dead": robust, "outside": 1}
    attacks = {"eps-curve[eps=[0.25,0.5]]": values, PGD: {"robust": robust, "error": "no"}}
    path = folder(attacks, shape=[1, 8, 8], zero_gradients=0, gradients_looked_at=4)
    records = [json.loads(line) for line in lines_of(path)]
    *keys, last = field.split(".")
    for kind in KINDS:
        changed = json.loads(json.dumps(records))
        place = changed[row]
        for key in keys:
            place = place[key]
        place[last] = kind
        (path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))
        done = report(path, "--gallery", 0)
        assert done.exception is None or isinstance(done.exception, SystemExit), (kind, done.exception)
        if done.exit_code:
            assert (done.exit_code, done.output.count("\n")) == (1, 1), (kind, done.output)
            assert path.name in done.output, (kind, done.output)


def test_records_of_other_kinds_are_left_alone(report, folder, held):
    path = folder({PGD: held(0.5)})
    before = summary_of(path)
    lines = lines_of(path)
    training = json.dumps({**json.loads(lines[1]), "kind": "training", "settings": {}, "values": {"loss": 1.0}}) + "\n"
    (path / "records.jsonl").write_text("".join([training, *lines, training]))
    assert csv_text(summary_of(path)) == csv_text(before)
    assert report(path).exit_code == 0


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "\xff\xfe", "null", "3", '"x"', "{}", "NaN"])
def test_lines_that_are_no_record_are_one_line(report, folder, held, text):
    path = folder({PGD: held(0.5)})
    (path / "records.jsonl").write_text("".join([text + "\n", *lines_of(path)]), encoding="latin-1")
    done = report(path)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "records.jsonl, line 1 is not a record" in done.output


def test_clean_of_a_model_that_failed_is_not_reached(report, folder, held):
    folder({PGD: held(0.5)}, model="fine")
    path = folder({PGD: {"robust": held(0.5), "error": "no"}}, model="broken", error="no such layer")
    done = report(path, "--fail-under", "clean=0.5")
    assert done.exit_code == 4
    assert failures(done) == ["FAILED: broken on digits: no clean accuracy (50 % wanted)"]


def test_a_bound_of_one_ball(report, folder, held):
    for eps, share in ((0.5, 0.4), (1.0, 0.2)):
        path = folder({PGD: held(share)}, eps=eps)
    assert report(path, "--fail-under", "robust[L2 0.5]=0.4").exit_code == 0
    done = report(path, "--fail-under", "robust[L2 0.5]=0.45", "--fail-under", "robust[L2 1]=0.2")
    assert done.exit_code == 4
    assert len(failures(done)) == 1
    assert failures(done)[0].startswith("FAILED: net on digits, L2 0.5: robust accuracy 40.0 %")
    done = report(path, "--fail-under", "robust[L2 0.51]=0.1")
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "unknown ball 'L2 0.51'; did you mean L2 0.5" in done.output


def test_a_stronger_attack_on_fewer_images_leaves_the_number_open(report, folder, held):
    folder({"autoattack": held(0.1, 100)}, clean=held(1.0, 100))
    path = folder({PGD: held(0.5), RANK1: held(0.6)})
    done = report(path, "--fail-under", "robust=0.4")
    assert done.exit_code == 4
    assert "robust accuracy is not known, autoattack failed or saw other images (40 % wanted)" in failures(done)[0]


def test_of_several_failures_the_first_code(report, folder, held):
    before, now = folder({PGD: held(0.5)}, out="before"), folder({PGD: held(0.3)}, out="now", doubts=["randomised"])
    flags = ["--compare", before, "--fail-on-doubt"]
    assert report(now, *flags[:2]).exit_code == 6
    assert report(now, *flags).exit_code == 5
    done = report(now, *flags, "--fail-under", "robust=0.4")
    assert done.exit_code == 4
    assert [line.split()[1] for line in failures(done)] == ["net", "doubt:", "worse:", "worse:"]


def test_inside_the_noise_is_fine(report, folder, held):
    before, now = folder({PGD: held(0.5)}, out="before"), folder({PGD: held(0.48)}, out="now")
    done = report(now, "--compare", before)
    assert done.exit_code == 0
    assert "inside the noise, -2.0 points" in done.output


def test_what_failed_now_is_worse(report, folder, held):
    before = folder({PGD: held(0.5), RANK1: held(0.6)}, out="before")
    now = folder({PGD: {"robust": held(0.5), "error": "no"}, RANK1: held(0.6)}, out="now")
    done = report(now, "--compare", before)
    assert done.exit_code == 6
    assert failures(done) == [f"FAILED: net on digits, {PGD}: failed now"]
    assert report(before, "--compare", now).exit_code == 0
    assert report(now, "--compare", now).exit_code == 0


def test_pictures_of_an_earlier_report_are_deleted(report, folder, held):
    pytest.importorskip("matplotlib")
    path = folder({RANK1: held(0.6), "lowrank-pgd[rank=2]": held(0.5)})
    (path / "report").mkdir()
    for name in ("rank-9.png", "eps-12.png", "rank-9.png.txt", "my-rank-9.png", "rank-.png", "notes.txt"):
        (path / "report" / name).write_text("")
    assert report(path).exit_code == 0
    names = {entry.name for entry in (path / "report").iterdir()}
    own = {"index.html", "report.md", "report.csv", "curves.csv", "rank-1.png"}
    assert names == own | {"rank-9.png.txt", "my-rank-9.png", "rank-.png", "notes.txt"}


@pytest.mark.parametrize("bounds", [
    [(0, 100), (100, 150), (150, 200)], [(2000, 2500)], [(0, 100), (100, 150)], [(0, 1000), (1000, 2000), (2000, 2100)],
    [(0, 1500)], [(0, 100), (100, 130), (130, 200)], [(100, 200)], [(0, 100), (100, 200), (200, 201)],
])  # fmt: skip
def test_commands_make_the_same_slices(folder, held, bounds):
    for start, stop in bounds:
        path = folder({PGD: held(0.5, stop)}, start=start, clean=held(1.0, stop))
    lines = list(csv.DictReader(io.StringIO(csv_text(summary_of(path)))))
    (line,) = (line for line in lines if line["attack"] == PGD)
    assert len(line["cells"].split()) == len(bounds)
    made = set()
    for command in line["command"].split("; "):
        words = shlex.split(command)
        flags = dict(zip(words[2::2], words[3::2], strict=True))
        made |= set(slices(10_000, int(flags["--images"]), int(flags.get("--slice", Plan.slice))))
    assert set(bounds) <= made


def test_an_attack_before_is_named_though_its_row_left_it_out(folder, held):
    """100 images first, then all: the rows are those of all, and what the first ones came after is still known."""
    folder({PGD: held(0.5), RANK1: held(0.45)}, survivors=True, size=100)
    folder({PGD: held(0.5)})
    lines = list(csv.DictReader(io.StringIO(csv_text(summary_of(folder({PGD: held(0.5)}))))))
    (line,) = (line for line in lines if line["attack"] == RANK1)
    assert line["after"] == PGD
    words = shlex.split(line["command"].split("; ")[0])
    assert [words[at + 1] for at, word in enumerate(words) if word == "--attack"] == [PGD, RANK1]


def test_the_check_for_dynamic_models_keeps_no_gradients():
    class Net(nn.Module):
        seen = ()

        def forward(self, x):
            self.seen = (*self.seen, torch.is_grad_enabled())
            return x.flatten(1)

    net = Net()
    assert not dynamic(net, torch.zeros(4, 1, 2, 2), torch.device("cpu"), Size(128))
    assert net.seen == (False,)


def test_a_model_that_asks_for_gradients_is_not_dynamic_for_that(write_model, tmp_path):
    """A whole evaluation of a model that refuses to answer where gradients are kept, but for the look at them."""
    name = write_model(
        "if torch.is_grad_enabled() and not x.requires_grad:\n    raise ValueError('kept')\nreturn self.net(x)"
    )
    evaluate(plan_of({"models": [name], "attacks": ["lowrank-pgd[rank=1,steps=2]"], "images": 20}), tmp_path / "out",
             verbose=False)  # fmt: skip
    (entry,) = summary_of(tmp_path / "out").entries
    assert (entry.clean.error, entry.clean.doubts) == ("", ())
    assert not re.search("kept", (tmp_path / "out" / "records.jsonl").read_text())
