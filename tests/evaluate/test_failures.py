"""What goes wrong with a model or an attack is a record with a reason; everything else is run."""

from __future__ import annotations

import pytest
import torch

from art_lowrank.evaluate.batches import Size, batched
from art_lowrank.evaluate.bench import AttackEntry, Bench, Found
from art_lowrank.evaluate.cell import run_cell
from art_lowrank.evaluate.plan import cells_of, plan_of
from art_lowrank.evaluate.run import bench_of
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import unpack


@pytest.fixture
def attacked():
    """The record of an attack that is any function of images and labels, on 20 digits."""

    def ran(function, eps=0.5, batch_size=128):
        plan = plan_of({"models": "digits:standard", "attacks": "rank-curve", "images": 20})
        given = bench_of(plan)
        run = lambda subject: lambda x, y, seed, place: Found(function(x, y))  # noqa: E731
        entry = AttackEntry("odd", "odd", Threat("L2", eps), 1, (), run)
        bench = Bench(
            given.models.values(), given.data.values(), [entry], device=given.device, batch_size=batch_size
        )  # fmt: skip
        cells = cells_of({"digits:standard": 1}, {"digits": (1, 20)}, {"odd": 1}, plan)
        clean = run_cell(cells[0], bench, {}).record
        return clean, run_cell(cells[1], bench, {cells[0].id: clean})

    return ran


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + 1,
        lambda x, y: (x + torch.randn(x.shape) * 5).clamp(0, 1),
        lambda x, y: x * torch.nan,
        lambda x, y: x * torch.inf,
    ],
    ids=["out of the box", "out of the ball", "NaN", "infinite"],
)
def test_images_that_are_not_allowed_do_not_count_as_broken(attacked, function):
    clean, (record, tensors) = attacked(function)
    assert record.values["status"] == "done"
    assert record.values["robust"] == clean.values["robust"]
    assert record.values["outside"] > 0
    assert len(tensors["x"]) == clean.values["right"]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x, y: x[:, :, 1:], "shape"),
        (lambda x, y: x[1:], "shape"),
        (lambda x, y: x.repeat(1, 3, 1, 1), "shape"),
        (lambda x, y: x.numpy(), "ndarray"),
        (lambda x, y: None, "None"),
        (lambda x, y: 1 / 0, "division by zero"),
    ],
    ids=["cropped", "one too few", "more channels", "array", "none", "raises"],
)
def test_an_attack_that_fails_is_a_record_with_its_traceback(attacked, function, error):
    _, (record, tensors) = attacked(function)
    assert record.values["status"] == "failed"
    assert error in record.values["error"]
    assert record.values["traceback"].startswith("Traceback")
    assert tensors == {}


def test_an_attack_that_writes_into_its_images_does_not_move_the_originals(attacked):
    _, (record, _) = attacked(lambda x, y: x.add_(0.5), eps=0.1)
    assert record.values["distance_max"] == pytest.approx(4)


BAD = [
    ("return self.net(x) * torch.nan", "NaN or infinity on 20 of 20 clean images"),
    ("return self.net(x).argmax(1)", "must return logits (20, classes)"),
    ("return self.net(x)[:1]", "must return logits (20, classes)"),
    ("return {'logits': self.net(x)}", "the model returns dict"),
    ("return self.net(x)[:, :5]", "label 9 is out of range: the model has 5 classes"),
    ("raise KeyError('no such\\nlayer')", "no such"),
]


@pytest.mark.parametrize(("forward", "error"), BAD, ids=[error[:24] for _, error in BAD])
def test_a_model_that_fails_does_not_stop_the_others(run, write_model, forward, error):
    records = run(models=[write_model(forward), "digits:standard"], images=20)
    assert [record.values["status"] for record in records] == ["failed"] * 3 + ["done"] * 3
    for record in records[:3]:
        assert error in record.values["error"]
        assert "\n" not in record.values["error"]
    assert "Traceback" in records[0].values["traceback"]


@pytest.mark.parametrize("load", ["raise RuntimeError('no weights')", "return 'a net'", "raise SystemExit(2)"])
def test_a_model_that_does_not_load_leaves_the_same_records_however_often_it_is_tried(
    run, write_model, tmp_path, stable, load
):
    models = [write_model(load=load), "digits:standard"]
    records = run(models=models)
    assert [record.values["status"] for record in records] == ["failed"] * 6 + ["done"] * 6
    run(out="twice", models=models, images=20)
    run(out="twice", models=models)
    assert stable(tmp_path / "twice") == stable(tmp_path / "out")


def test_nan_under_attack_counts_as_broken_and_is_said(run, write_model):
    forward = "return self.net(x) / (1 - ((x * 16) % 1 > 0).flatten(1).any(1, keepdim=True).float())"
    attack = "art:ProjectedGradientDescent[max_iter=1,eps_step=0.2]"
    clean, attacked = run(models=[write_model(forward)], images=20, attacks=attack)
    assert clean.values["status"] == attacked.values["status"] == "done"
    assert attacked.values["right"] == 0
    assert attacked.values["unreadable"] == sum(unpack(attacked.values["attacked"], 20))


@pytest.mark.parametrize("changes", [{"attacks": "lowrank-pgd[steps=2]"}, {"images": 40}], ids=["attack", "slice"])
def test_a_model_that_changes_between_runs_is_noticed_before_its_numbers_mix(run, write_model, tmp_path, changes):
    load = "model = Net()\nmodel.bias = nn.Parameter(torch.tensor([float(Path(%r).read_text())]))\nreturn model"
    asked = {
        "models": [write_model(load=load % str(tmp_path / "bias"))],
        "images": 20,
        "attacks": "lowrank-pgd[steps=1]",
    }
    (tmp_path / "bias").write_text("1")
    run(**asked)
    (tmp_path / "bias").write_text("2")
    *_, more = run(**{**asked, **changes})
    assert "has changed since clean was run on it" in more.values.get("error", "")


LIMIT = "torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')"


BACKWARD = f"def full(_):\n    raise {LIMIT}\nif len(x) > 5 and x.requires_grad:\n    x.register_hook(full)\n"


@pytest.mark.parametrize(
    ("shortage", "attack"),
    [
        (f"if len(x) > 5:\n    raise {LIMIT}\n", "lora-pgd[rank=1,steps=3]"),
        (BACKWARD, "art:ProjectedGradientDescent[max_iter=2]"),
    ],
    ids=["forward", "backward"],
)
def test_out_of_memory_halves_the_batch_and_changes_nothing_else(run, write_model, shortage, attack):
    model = write_model(f"{shortage}return self.net(x)")
    _, halved = run(models=[model], images=20, attacks=[attack])
    _, small = run(out="small", models=[model], images=20, attacks=[attack], batch_size=4)
    assert halved.values == small.values
    assert (halved.volatile["batch_size"], halved.volatile["halved"]) == (4, 2)
    assert (small.volatile["batch_size"], small.volatile["halved"]) == (4, 0)


def test_a_batch_of_one_that_does_not_fit_is_a_failure(run, write_model):
    records = run(models=[write_model(f"raise {LIMIT}"), "digits:standard"], images=20)
    assert "out of memory" in records[0].values["error"]
    assert records[-1].values["status"] == "done"


def test_every_image_is_worked_on_once_however_batches_are_halved():
    limits = iter([9, 9, 3, 9, 1, 9, 2] + [9] * 20)

    def work(start, stop):
        if stop - start > next(limits):
            raise MemoryError
        return list(range(start, stop))

    parts, size = batched(work, 20, Size(8))
    assert [row for part in parts for row in part] == list(range(20))
    assert size.halved > 0


def test_other_errors_do_not_halve():
    def work(start, stop):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        batched(work, 20, Size(8))


@pytest.mark.parametrize(
    ("forward", "doubt"),
    [
        ("return self.net(x).softmax(1)", "probabilities"),
        ("return self.net(x) + torch.randn(1)", "randomised"),
        ("return self.net(x) * 0", "constant"),
        ("return self.net(x)", None),
    ],
)
def test_what_makes_a_model_doubtful_is_recorded(run, write_model, forward, doubt):
    clean, *_ = run(models=[write_model(forward)], images=20)
    assert clean.values["doubts"] == ([doubt] if doubt else [])
