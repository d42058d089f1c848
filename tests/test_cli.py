"""The command line: help without torch, and the demo whole."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from art_lowrank import __version__, record
from art_lowrank.cli import main


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_help_does_not_import_torch():
    code = "import sys; from art_lowrank.cli import main; main(['--help'], standalone_mode=False); "
    code += "print('torch' in sys.modules)"
    assert python("-c", code).stdout.splitlines()[-1] == "False"


def test_module_and_version():
    shown = python("-m", "art_lowrank", "--version")
    assert shown.returncode == 0
    assert __version__ in shown.stdout


def test_demo(tmp_path):
    started = time.perf_counter()
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "new" / "folder")], catch_exceptions=False)
    assert result.exit_code == 0
    assert time.perf_counter() - started < 60
    robust = {
        (r.model, r.attack): r.values["right"] for r in record.read(tmp_path / "new" / "folder" / "records.jsonl")
    }
    for net in ("digits:standard", "digits:adversarial", "digits:low-rank"):
        ranks = [robust[net, f"lowrank-pgd[power,rank={rank}]"] for rank in (1, 2, "full")]
        assert 0.9 * 500 < robust[net, "clean"] < 500
        assert robust[net, "clean"] > ranks[0] > ranks[1] > ranks[2]
        hosts = [right for (model, attack), right in robust.items() if model == net and ":" in attack]
        assert all(abs(right - ranks[2]) <= 10 for right in hosts), (hosts, ranks)
    assert robust["digits:adversarial", "rank-curve"] > robust["digits:standard", "rank-curve"] + 50
    for name in ("torchattacks", "matplotlib"):
        assert (f"{name} is not installed" in result.output) == (find_spec(name) is None)
    page = tmp_path / "new" / "folder" / "report" / "index.html"
    assert f"Report: {page}" in result.output
    assert page.read_text().count("data:image/png;base64") == 3 * 4 * 5  # nets, images, clean and two attacks
    if "matplotlib is not installed" not in result.output:
        assert (page.parent / "rank-1.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "folder")])
    assert result.exit_code == 1
    assert "choose another folder with --out" in result.output


@pytest.mark.parametrize(("arguments", "message"), [(["demo", "--seed", "-1"], "-1"), (["dance"], "dance")])
def test_wrong_arguments_are_quoted(arguments, message):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output
