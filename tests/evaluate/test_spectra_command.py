"""`art-lowrank spectra`: the measures of an evaluation's folder, written beside it."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from art_lowrank.cli import main
from art_lowrank.demo.nets import built_in
from art_lowrank.evaluate.report.png import can_draw

ASKED = ("--model", "digits:standard", "--images", "30", "--quiet")
NOISE = "noise as long as the first attack's"
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
    noise = value(rows, NOISE, "energy", 1)
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
    assert NOISE in done.output
    assert (folder / "records.jsonl").read_bytes() == before[0]
    assert (folder / "spectra" / "spectra.csv").read_bytes() == before[1]


def table(out):
    with (out / "spectra" / "spectra.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluated(out, *arguments):
    done = CliRunner().invoke(main, ["evaluate", "--out", str(out), *ASKED[:2], "--quiet", *arguments])
    assert done.exit_code == 0, done.output
    return out


def test_what_moves_nothing_and_curves_do_not_count(tmp_path):
    """The control has the lengths of the first attack that moves an image; a curve keeps images of different ranks."""
    attacks = ("lowrank-pgd[rank=1,eps=0]", "rank-curve", "lowrank-pgd[rank=2]")
    flags = [flag for attack in attacks for flag in ("--attack", attack)]
    done = spectra(*ASKED, *flags, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert any(" 0  " in line and "unmoved)" in line for line in done.output.splitlines())
    assert "nan" not in done.output
    found = table(tmp_path / "out")
    assert {row["attack"] for row in found} == {"lowrank-pgd[power,rank=2]", NOISE}


def test_bytes_that_were_not_touched_are_unmoved(tmp_path):
    """Clean images are kept as bytes where that loses nothing; float32 divides them otherwise than float64."""
    x = torch.randint(0, 256, (8, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = built_in("standard")(x.permute(0, 3, 1, 2).float() / 255).argmax(1)
    np.savez(tmp_path / "bytes.npz", x=x.numpy(), y=y.numpy())
    done = spectra(
        *ASKED[:2], "--data", tmp_path / "bytes.npz", "--eps", "0", "--attack", "lowrank-pgd", tmp_path / "out"
    )
    assert done.exit_code == 0, done.output
    assert "(8 unmoved)" in done.output


def test_seeds_have_names_of_their_own(tmp_path):
    out = evaluated(tmp_path / "out", "--images", "20", "--attack", "lora-pgd[rank=1]", "--seed", "0", "--seed", "1")
    assert spectra(out).exit_code == 0
    assert {row["attack"] for row in table(out)} == {
        "lora-pgd[paper,rank=1], seed 0", "lora-pgd[paper,rank=1], seed 1", NOISE
    }  # fmt: skip


def test_slices_are_put_together(rows, tmp_path):
    """In slices of any size, also of two sizes in one folder, the same images come out; so does the control."""
    out = evaluated(tmp_path / "out", "--images", "30", "--slice", "8", "--attack", "lowrank-pgd[rank=full,steps=1]")
    evaluated(out, "--images", "30", "--slice", "7", "--attack", WHOLE)
    assert spectra(out).exit_code == 0
    for attack in (WHOLE, NOISE):
        for measure, k in (("entropy", ""), ("energy", 2), ("change", 3)):
            assert value(table(out), attack, measure, k) == pytest.approx(value(rows, attack, measure, k), rel=1e-4)


def test_an_attack_without_images_does_not_stop_the_others(tmp_path):
    out = evaluated(tmp_path / "out", "--images", "9", "--attack", "lowrank-pgd[rank=1]")
    evaluated(out, "--images", "9", "--attack", "lowrank-pgd[rank=2]", "--no-images")
    (first, *_) = [path for path in (out / "images").iterdir() if path.stat().st_size]
    done = spectra(out)
    assert done.exit_code == 0, done.output
    assert "not measured: digits:standard, lowrank-pgd[power,rank=2]: the images were not kept" in done.output
    first.write_bytes(b"torn")
    done = spectra(out)
    assert done.exit_code == 1
    assert len(done.output.strip().splitlines()) == 1, done.output


def test_a_folder_that_is_none_is_not_evaluated_into(tmp_path):
    done = spectra(tmp_path / "resutls")
    assert done.exit_code == 1
    assert "there is no folder" in done.output
    assert not (tmp_path / "resutls").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nothing:here"), "nothing"),
        (
            ("--attack", "clean", "--model", "digits:standard", "--images", "5", "--quiet"),
            "no attack whose perturbations",
        ),
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
