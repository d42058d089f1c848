"""`art-lowrank spectra`: the measures of an evaluation's folder, written beside it."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner

from art_lowrank.cli import main
from art_lowrank.evaluate.report.png import can_draw

ASKED = ("--model", "digits:standard", "--images", "30", "--quiet")
WHOLE = "lowrank-pgd[power,rank=full,early_stop=false]"


def spectra(*arguments):
    return CliRunner().invoke(main, ["spectra", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("spectra") / "out"
    done = spectra(*ASKED, out)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def rows(folder):
    with (folder / "spectra" / "spectra.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(rows, attack, measure, k=""):
    (row,) = (row for row in rows if (row["attack"], row["measure"], row["k"]) == (attack, measure, str(k)))
    assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    return float(row["mean"])


def test_a_model_of_ones_own_and_the_control(rows):
    """Energies rise to 1; a rank-1 attack has nearly all of it in one value, noise in none; attacks beat noise."""
    for attack in {row["attack"] for row in rows}:
        energies = [value(rows, attack, "energy", k) for k in range(1, 9)]
        assert energies == sorted(energies)
        assert energies[-1] == pytest.approx(1)
        assert 1 <= value(rows, attack, "stable") <= value(rows, attack, "ratio") <= 8
    noise = value(rows, "noise of the same length", "energy", 1)
    assert noise < 0.5 < value(rows, WHOLE, "energy", 1)
    assert value(rows, "lora-pgd[paper,rank=0.1]", "energy", 1) > 0.9


def test_values_that_images_do_not_have_are_left_out(rows):
    """Of no digit the border column is anything but black: its smallest singular value is 0, and has no change."""
    known = {int(row["k"]) for row in rows if row["measure"] == "change" and row["attack"] == WHOLE}
    assert 1 in known
    assert 8 not in known


@pytest.mark.skipif(not can_draw(), reason="needs matplotlib")
def test_pictures(folder):
    assert {path.name for path in (folder / "spectra").iterdir()} == {"spectra.csv", "change-1.png", "energy-1.png"}


def test_a_folder_that_is_there_is_only_measured(folder):
    before = (folder / "records.jsonl").read_bytes(), (folder / "spectra" / "spectra.csv").read_bytes()
    done = spectra(folder)
    assert done.exit_code == 0, done.output
    assert "noise of the same length" in done.output
    assert (folder / "records.jsonl").read_bytes() == before[0]
    assert (folder / "spectra" / "spectra.csv").read_bytes() == before[1]


def test_images_an_attack_leaves_alone_and_curves_do_not_count(tmp_path):
    """FGSM with a tiny radius in float32 moves some images not at all; a curve keeps images of different ranks."""
    attacks = ("--attack", "lowrank-pgd[rank=full,steps=1,eps=1e-9]", "--attack", "rank-curve")
    out = tmp_path / "out"
    done = spectra(*ASKED, *attacks, "--attack", "lowrank-pgd[rank=2]", out)
    assert done.exit_code == 0, done.output
    assert "unmoved)" in done.output
    with (out / "spectra" / "spectra.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert not any("curve" in row["attack"] for row in found)
    assert all(int(row["n"]) < 30 for row in found if "1e-09" in row["attack"])


def test_slices_are_put_together(folder, rows, tmp_path):
    """In slices of any size the same images come out."""
    plan = tmp_path / "plan.toml"
    plan.write_text(f'models = ["digits:standard"]\nattacks = ["{WHOLE}"]\nimages = 30\nslice = 7\n', encoding="utf-8")
    done = CliRunner().invoke(main, ["evaluate", "--plan", str(plan), "--out", str(tmp_path / "out"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert spectra(tmp_path / "out").exit_code == 0
    with (tmp_path / "out" / "spectra" / "spectra.csv").open(newline="", encoding="utf-8") as file:
        sliced = list(csv.DictReader(file))
    for measure, k in (("entropy", ""), ("energy", 2), ("change", 3)):
        assert value(sliced, WHOLE, measure, k) == pytest.approx(value(rows, WHOLE, measure, k), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nothing:here"), "nothing"),
        (("--attack", "clean", "--model", "digits:standard", "--images", "5", "--quiet"), "no perturbed images"),
        (("--images", "0"), "images is 0; give a whole number >= 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    done = spectra(*arguments, tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1, done.output


def test_images_that_were_not_kept(tmp_path):
    command = [
        "evaluate",
        "--out",
        str(tmp_path / "out"),
        *ASKED[:4],
        "--attack",
        "lowrank-pgd",
        "--no-images",
        "--quiet",
    ]
    assert CliRunner().invoke(main, command).exit_code == 0
    done = spectra(tmp_path / "out")
    assert done.exit_code == 1
    assert "images were not kept" in done.output


def test_a_failing_attack_is_said_and_the_rest_measured(tmp_path):
    """The second attack cannot be run on images of this size; the first is measured all the same."""
    attacks = ("--attack", "lowrank-pgd[rank=2]", "--attack", "lowrank-pgd[rank=9]")
    done = spectra(*ASKED, *attacks, tmp_path / "out")
    assert done.exit_code == 3
    assert "FAILED: digits:standard, lowrank-pgd[power,rank=9]: rank 9 exceeds" in done.output
    assert "lowrank-pgd[power,rank=2]  " in done.output
