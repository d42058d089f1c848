"""`art-lowrank evaluate`: exit codes, one line for every mistake, what it prints."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from art_lowrank.cli import main
from art_lowrank.record import read

QUICK = ["--model", "digits:standard", "--attack", "lowrank-pgd[rank=1,steps=2]", "--images", "20", "--quiet"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """The command in a folder of its own, in this process. (Click's runner keeps stderr apart since 8.2 only.)"""
    monkeypatch.chdir(tmp_path)

    def called(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *map(str, arguments)])
        stdout, stderr = capsys.readouterr()
        return SimpleNamespace(exit_code=ended.value.code, stdout=stdout, stderr=stderr, output=stdout + stderr)

    return called


def test_all_went_well(command, tmp_path):
    result = command(*QUICK, "--out", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.output.splitlines()
    assert "digits:standard on digits, 20 images" in lines
    record = read(tmp_path / "out" / "records.jsonl")[-1]
    percent = f"{100 * record.values['right'] / 20:.1f} %"
    assert any(
        line.split()[:3] == ["lowrank-pgd[power,rank=1,steps=2]", "L2", "0.5"] and percent in line for line in lines
    )
    assert f"Records: {os.path.join('out', 'records.jsonl')}" in lines
    assert command(*QUICK, "--out", "out").output == result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "digits:standrad"], "did you mean standard?"),
        (["--model", "digts:standard"], "did you mean digits:standard"),
        (["--model", "digits"], "did you mean digits:standard"),
        (["--model", "json:lods"], "did you mean loads"),
        (["--model", "nowhere.at.all:net"], "nowhere.at.all"),
        (["--model", "digits:standard[weights=a.pt]"], "unknown parameter 'weights'"),
        (["--model", "json:loads[weights=nowhere.pt,s=x]"], "there is no file 'nowhere.pt'"),
        (["--model", "broken.sub:net"], "broken"),
        (["--model", "broken:net"], "broken"),
        (["--attack", "lowrnk-pgd"], "did you mean lowrank-pgd"),
        (["--attack", "lowrank-pgd[rnk=1]"], "did you mean rank?"),
        (["--attack", "lowrank-pgd[rank=0]"], "rank"),
        (["--attack", "lowrank-pgd[steps=many]"], "steps"),
        (["--attack", "lowrank-pgd[powr]"], "power"),
        (["--attack", "lowrank-pgd[rank=1"], "is not a name[key=value,...]"),
        (["--attack", "rank-curve[rank=1]"], "did you mean ranks"),
        (["--attack", "eps-curve[eps=[-1,1]]"], "eps"),
        (["--attack", "art:ProjectedGradientDecent"], "did you mean ProjectedGradientDescent"),
        (["--attack", "art:ProjectedGradientDescent[max_itr=2]"], "did you mean max_iter"),
        (["--attack", "art:ProjectedGradientDescent[targeted=true]"], "untargeted"),
        (["--data", "digit"], "did you mean digits"),
        (["--data", "nowhere.npz"], "there is no file 'nowhere.npz'"),
        (["--data", "torn.npz"], "torn.npz cannot be read"),
        (["--data", "other.npz"], "it needs x and y"),
        (["--data", "uneven.npz"], "3 images and 2 labels"),
        (["--norm", "3"], "choose 2, inf"),
        (["--eps", "wide"], "give one radius"),
        (["--images", "0"], "images is 0"),
        (["--seed", "-1"], "seeds is -1"),
        (["--device", "gpu7"], "give auto"),
        (["--plan", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--plan", "plan.toml"], "did you mean models"),
        (["--out", "torn.npz"], "torn.npz is a file"),
        (["--out", "torn.npz/out"], "torn.npz"),
        (["--out", "broken"], "is no folder of an evaluation"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_ends_with_1(command, tmp_path, arguments, message):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise RuntimeError('half installed')")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "plan.toml").write_text('modles = ["digits:standard"]')
    np.savez("other.npz", a=np.zeros(3))
    np.savez("uneven.npz", x=np.zeros((3, 8, 8)), y=np.zeros(2))
    result = command(*QUICK[:-1], "--out", "out", "--quiet", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_wrong_flag_ends_with_2(command):
    assert command("--colour", "red").exit_code == 2
    assert command("--images", "many").exit_code == 2


def test_a_failed_model_ends_with_3_and_is_said_in_the_table(command, write_model):
    model = write_model("raise KeyError('layer4')")
    result = command(*QUICK, "--model", model, "--out", "out")
    assert result.exit_code == 3
    assert "failed: KeyError: 'layer4'" in result.output
    assert "2 of 4 cells failed" in result.output
    assert command(*QUICK, "--model", model, "--out", "out").exit_code == 3
    assert command(*QUICK, "--out", "out").exit_code == 0


def test_a_toml_plan_and_flags_do_the_same(command, tmp_path):
    (tmp_path / "plan.toml").write_text(
        'models = ["digits:standard"]\nattacks = ["lowrank-pgd[rank=1,steps=2]"]\n'
        'images = 9\nnorm = "inf"\neps = "8/255"\n'
    )
    planned = command("--plan", "plan.toml", "--images", "20", "--out", "out", "--quiet")
    assert planned.exit_code == 0
    assert "Linf 8/255" in planned.output
    assert command(*QUICK, "--norm", "inf", "--eps", "8/255", "--out", "out").output == planned.output
    assert len(read(tmp_path / "out" / "records.jsonl")) == 2


def test_a_seed_given_twice_does_not_make_images_count_twice(command):
    assert "digits:standard on digits, 20 images" in command(*QUICK, "--out", "out", "--seed", 0, "--seed", 0).output
    once = command(*QUICK, "--out", "once", "--seed", 0).output
    assert once.replace("once", "out") == command(*QUICK, "--out", "out", "--seed", 0, "--seed", 0).output


def test_help_is_there_at_once_and_without_torch():
    """Seconds of its own, Python's start included: the machine may be busy with something else."""
    code = "import sys, time; from art_lowrank.cli import main; main(['evaluate', '--help'], standalone_mode=False); "
    code += "print(time.process_time()); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    shown = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert "art-lowrank-evaluation" in shown[0]
    assert min(float(text.splitlines()[-1]) for text in shown) < 0.3


@pytest.mark.parametrize("size", [300, 2000, 5000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_room_is_made(command, tmp_path, stable, size):
    """A limit on the size of files stands in for the disk: the first part of a line is there, then writes fail."""
    arguments, whole = [*QUICK, "--slice", 5, "--out", "out"], [*QUICK, "--slice", 5, "--out", "whole"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        limited = command(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (limited.exit_code, limited.stdout, limited.stderr.count("\n")) == (1, "", 1)
    assert limited.stderr.startswith("Error: ")
    assert not list((tmp_path / "out" / "images").glob("*.tmp"))
    kept = stable(tmp_path / "out") if size > 300 else {}
    assert bool(kept) == (size > 300)
    assert command(*arguments).exit_code == command(*whole).exit_code == 0
    assert stable(tmp_path / "out") == stable(tmp_path / "whole")
    assert kept.items() <= stable(tmp_path / "whole").items()


def test_interrupted_by_the_user_it_says_how_to_go_on(command, write_model, tmp_path, stable, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    stop = (
        f"records = Path({str(tmp_path / 'out' / 'records.jsonl')!r}).exists()\n"
        f"if records and x.requires_grad and not Path({str(tmp_path / 'go')!r}).exists():\n"
        "    signal.raise_signal(signal.SIGINT)"
    )
    arguments = [*QUICK[2:], "--model", write_model(f"import signal\n{stop}\nreturn self.net(x)"), "--slice", 10]
    interrupted = command(*arguments, "--out", "out")
    assert (interrupted.exit_code, interrupted.stderr.count("\n")) == (130, 1)
    assert "run the same command again" in interrupted.stderr
    assert len(stable(tmp_path / "out")) == 1
    (tmp_path / "go").touch()
    assert command(*arguments, "--out", "out").exit_code == command(*arguments, "--out", "whole").exit_code == 0
    assert stable(tmp_path / "out") == stable(tmp_path / "whole")


def test_no_images_are_kept_where_none_are_wanted(command, tmp_path):
    shown = command(*QUICK[2:], "--model", "digits:standard", "--no-images", "--out", "out")
    assert shown.exit_code == 0, shown.output
    assert "Adversarial images" not in shown.output
    assert not list((tmp_path / "out" / "images").iterdir())
