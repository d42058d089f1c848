"""What is foretold, compared with what came."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner

from art_lowrank.cli import main
from art_lowrank.evaluate import calibration, evaluate
from art_lowrank.evaluate.calibration import BUDGET, calibrate, firsts
from art_lowrank.evaluate.forecast import Kind, Needs, duration, forecast, lines, needs_of, size, total
from art_lowrank.evaluate.run import bench_of, cells_in

ATTACKS = (
    "lowrank-pgd[rank=1]",
    "lowrank-pgd[rank=full]",
    "lora-pgd[rank=2]",
    "rank-curve",
    "art:ProjectedGradientDescent[max_iter=20,eps_step=0.1]",
)


def within(factor, told, true):
    return true / factor <= told <= true * factor


@pytest.mark.parametrize(
    ("models", "survivors"), [(["digits:standard", "digits:low-rank"], False), (["digits:adversarial"], True)]
)
def test_within_a_factor_of_two(plan, tmp_path, models, survivors):
    """Counts and memory at once; the time of one of three, on a machine that does other things meanwhile."""
    asked = plan(models=models, attacks=ATTACKS, images=240, slice=120, survivors=survivors)
    for attempt in range(3):
        out = tmp_path / str(attempt)
        told = forecast(asked, out)
        assert not out.exists()
        started = time.perf_counter()
        found = evaluate(asked, out, verbose=False)
        took = time.perf_counter() - started
        ((_, needs),) = told.kinds
        check_counts(needs, found.records.values())
        if within(2, told.seconds, took):
            return
    pytest.fail(f"foretold {told.seconds:.1f} s, took {took:.1f} s")


def check_counts(needs, records):
    for model, row in needs.items():
        own = [record for record in records if record.model == model]
        for name in ("forwards", "gradients"):
            assert within(2, getattr(row, name), sum(record.values[name] for record in own)), (model, name)
        assert within(2, row.bytes, max(record.volatile["peak_bytes"] for record in own))
        assert row.cells == len(own)


def test_what_is_done_is_not_counted(plan, tmp_path):
    evaluate(plan(attacks=["lora-pgd[rank=2,steps=3]"]), tmp_path / "out", verbose=False)
    told = forecast(plan(), tmp_path / "out")
    assert (len(told.cells), len(told.todo)) == (6, 2)
    assert {cell.attack for cell in told.todo} == {"lowrank-pgd[power,rank=1,steps=3]"}
    assert next(lines(told)) == "6 cells, 4 of them done, 2 to run"
    evaluate(plan(), tmp_path / "out", verbose=False)
    told = forecast(plan(), tmp_path / "out")
    assert (told.todo, told.kinds, told.seconds) == ([], [], 0.0)


def test_nothing_in_the_folder_changes(plan, tmp_path):
    evaluate(plan(), tmp_path / "out", verbose=False)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    forecast(plan(seeds=[0, 1]), tmp_path / "out")
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_when_the_time_is_spent_the_rest_is_estimated(plan):
    """One cell is tried at least; the others take what they took on other models, or their steps."""
    asked = plan(models=["digits:standard", "digits:adversarial"], attacks=ATTACKS[:2], images=200, slice=200)
    bench = bench_of(asked)
    cells = cells_in(bench, asked)
    full = calibrate(bench, firsts(cells, cells), BUDGET)
    assert len(full.tried) == len(cells)
    one = calibrate(bench, firsts(cells, cells), 0.0)
    assert len(one.tried) == 1
    half = {key: trial for key, trial in full.tried.items() if key[0] == "digits:standard"}
    truth = total(needs_of(cells, bench, full.tried))
    assert within(2, total(needs_of(cells, bench, half)).gradients, truth.gradients)
    rough = needs_of(cells, bench, one.tried)
    assert within(4, total(rough).gradients, truth.gradients)
    assert total(rough).seconds > 0


def test_a_model_that_fails_is_named(plan, write_model):
    model = write_model(load="raise RuntimeError('no weights')")
    told = forecast(plan(models=[model, "digits:standard"]), "out")
    assert told.errors == {f"{model} clean": "RuntimeError: no weights"}
    assert any("no weights" in line for line in lines(told))
    shown = CliRunner().invoke(main, ["evaluate", "--plan-only", "--model", model, "--images", "10"])
    assert (shown.exit_code, "no weights" in shown.output) == (3, True)


def test_the_command(tmp_path):
    out = tmp_path / "out"
    flags = ["--model", "digits:standard", "--attack", "lora-pgd[rank=1,steps=3]", "--images", "20", "--out", str(out)]
    shown = CliRunner().invoke(main, ["evaluate", "--plan-only", *flags])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("2 cells, 0 of them done, 2 to run\n")
    assert "On 1 worker (cpu, threads: " in shown.output
    assert "digits:standard" in shown.output
    assert not out.exists()


def test_words():
    assert [duration(s) for s in (0.04, 9.96, 61.2, 150, 7300, 10 * 86400)] == [
        *("0.0 s", "10.0 s", "62 s", "2.5 min", "2.0 h", "10.0 days")
    ]
    assert [size(n) for n in (0, 5_400_000, 2_150_000_000)] == ["unknown", "5 MB", "2.1 GB"]


NAP = "import time\ntime.sleep(0.02)\nreturn self.net(x)"


def told_and_true(asked, out):
    """Seconds foretold, and seconds of all cells together."""
    ((_, needs),) = forecast(asked, out).kinds
    records = evaluate(asked, out, verbose=False).records.values()
    return total(needs).seconds, sum(record.volatile["seconds"] for record in records)


def test_a_model_whose_passes_take_as_long_for_few_images_as_for_many(plan, write_model, tmp_path, monkeypatch):
    """As on a GPU: a trial of eight images says nothing of the pace, and one of a hundred is cut off."""
    monkeypatch.setattr(calibration, "PROBE", 0.5)
    attacks = ["lora-pgd[rank=2,steps=40,early_stop=false]"]
    told, true = told_and_true(
        plan(models=[write_model(NAP)], attacks=attacks, images=128, slice=128), tmp_path / "out"
    )
    assert within(2, told, true)


def test_a_trial_is_cut_off(plan, write_model, tmp_path, monkeypatch):
    """An attack of ten minutes costs a few seconds, and is estimated by its steps."""
    monkeypatch.setattr(calibration, "PROBE", 0.5)
    model = write_model(NAP.replace("0.02", "0.1"))
    asked = plan(models=[model], attacks=["lora-pgd[rank=2,steps=6000]"], images=128, slice=128)
    started = time.perf_counter()
    ((kind, needs),) = forecast(asked, tmp_path / "out").kinds
    assert time.perf_counter() - started < 20
    assert within(2, total(needs).seconds, 6000 * 0.1)
    assert within(2, total(needs).gradients, 6000 * 128 * 0.92)
    assert len(kind.calibration.tried) == 2


def test_workers_do_not_help_where_cells_wait_for_each_other(plan, tmp_path):
    asked = plan(models=["digits:standard"], attacks=ATTACKS[:1], images=100, slice=100)
    alone = forecast(asked, tmp_path / "out")
    tried = alone.kinds[0][0].calibration
    many = forecast(asked, tmp_path / "out", prober=lambda *_: [Kind(16, tried)])
    assert many.seconds == pytest.approx(total(alone.kinds[0][1]).seconds)  # one attack, after one clean cell
    wide = plan(models=["digits:standard"], attacks=ATTACKS[:1], images=400, slice=25)
    one, four, shared = (
        forecast(wide, tmp_path / "out", prober=lambda *_, kind=kind: [kind]).seconds
        for kind in (Kind(1, tried), Kind(4, tried), Kind(4, tried, 0.5))
    )
    assert four == pytest.approx(one / 4)
    assert shared == pytest.approx(one / 2)


def test_a_folder_of_something_else_is_refused_at_once(plan, tmp_path):
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no folder of an evaluation"):
        forecast(plan(), tmp_path)


def test_a_model_that_fails_costs_nothing(plan, write_model, tmp_path):
    model = write_model(load="raise RuntimeError('no weights')")
    ((_, needs),) = forecast(plan(models=[model, "digits:standard"]), tmp_path / "out").kinds
    assert needs[model] == Needs(6, longest=0.0)
    assert needs["digits:standard"].gradients > 0


def test_a_slow_model_is_tried_without_an_attack_to_the_end(plan, write_model, tmp_path, monkeypatch):
    """The clean cell takes more passes than a trial of an attack has time for."""
    monkeypatch.setattr(calibration, "PROBE", 0.01)
    monkeypatch.setattr(calibration, "_more", lambda few, most: most)
    model = write_model(NAP)
    told = forecast(plan(models=[model], attacks=["lora-pgd[rank=2,steps=3]"]), tmp_path / "out")
    assert not told.errors
    assert total(told.kinds[0][1]).seconds > 0
