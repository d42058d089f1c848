"""The evidence: pages say what the records say, words follow from outcomes, and measures know their closed forms."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from art_lowrank.record import pack, read

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "integration" / "evidence"


@pytest.fixture(autouse=True)
def _modules(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("this copy of the tests has no integration folder")
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])  # its modules add folders of their own
    yield
    for name in set(sys.modules) - before:  # other folders of integration have modules of the same names
        if str(ROOT / "integration") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def full():
    """The full mode's records, as the pages use them."""
    import evidence_readme

    if not evidence_readme.FULL.exists():
        pytest.skip("nothing is recorded yet: run integration/evidence/evidence.py")
    return evidence_readme.asked_for(read(evidence_readme.FULL))


def test_pages_say_what_the_records_say(full):
    import evidence_readme
    from study import Scale

    for path, text in (
        (evidence_readme.README, evidence_readme.summary(full, Scale())),
        (evidence_readme.PAGE, evidence_readme.details(full, Scale())),
    ):
        page = path.read_text(encoding="utf-8")
        assert evidence_readme.written(page, text) == page


def test_every_item_is_measured_and_says_so_in_a_sentence(full):
    from items import ITEMS
    from study import Scale

    assert len(ITEMS) == 8
    for name, item in ITEMS.items():
        assert item.sentence(full, Scale()), name
        assert item.verdict(full, Scale()), name


def test_without_records_nothing_is_claimed():
    import evidence_readme
    from items import ITEMS, told
    from study import Notes, Scale

    for item in ITEMS.values():
        assert evidence_readme.sentence(item, Notes([]), Scale()).startswith("not measured: ")
        assert any(line.startswith("Not measured: ") for line in told(item, Notes([]), Scale()))


def test_questions_are_asked_once_and_small_ones_are_fewer():
    from items import ANSWERS, ITEMS
    from study import Scale

    for item in ITEMS.values():
        for where in ("assets", "digits"):
            full, small = (list(item.questions(Scale(small, where))) for small in (False, True))
            assert len(small) <= len(full)
            assert all(question.kind in ANSWERS for question in full)
            assert max(question.n for question in small if question.attack != "tuning") <= 100


def answered(question, broken):
    """As if the first `broken` images had been broken."""
    flags = [place >= broken for place in range(question.n)]
    values = {"holds": pack(flags), "stored_bytes": 1}
    return replace(question.asked, values=values, volatile={"process_seconds": 1.0})


@pytest.mark.parametrize(("more", "word"), [(-60, "**weaker**"), (0, "no difference shown"), (60, "stronger")])
def test_words_follow_from_paired_outcomes(more, word):
    """The published attack breaks so many images more than PGD, on every net."""
    import lora_table
    from study import Notes, Scale

    scale = Scale(small=True)
    records = []
    for one in lora_table.all_tables(scale):
        records += [answered(question, 30 + (more > 0) * more) for question in one.at(10)]
        records.append(answered(one.pgd(10), 30 + (more < 0) * -more))
    said = lora_table.sentence(Notes(records), scale)
    assert f"LoRa-PGD as published, a tenth of full rank: {word} (" in said


def test_tightness_of_layers_known_by_hand():
    """One layer loses nothing; x -> (x, x) -> difference has an output box of 0, and IBP gives 2 r."""
    from tightness import tightness

    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 1, 2, 2, generator=draws) * 0.5 + 0.25, torch.tensor([0, 1, 2])
    one = nn.Linear(4, 3)
    assert tightness([nn.Flatten(), one], x, y, 0.1).tolist() == pytest.approx([1, 1, 1])
    twice, difference = nn.Linear(4, 2), nn.Linear(2, 2)
    with torch.no_grad():
        twice.weight.copy_(torch.ones(2, 4))
        difference.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    assert tightness([nn.Flatten(), twice, difference], x[:1], y[:1], 0.1).tolist() == pytest.approx([0])


def test_the_exact_box_is_that_of_the_jacobian():
    """Through convolutions, ReLU and flattening, against autograd; and never larger than IBP's."""
    from tightness import flat, jacobian, pattern, tightness

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 8), nn.LeakyReLU(0.2))
    x = torch.rand(1, 1, 6, 6)
    layers, rows = flat(net), torch.eye(8)
    expected = torch.autograd.functional.jacobian(lambda image: net(image)[0], x).flatten(1)
    assert torch.allclose(jacobian(layers, *pattern(layers, x), rows), expected, atol=1e-6)
    shares = tightness([*layers, nn.Linear(8, 4)], torch.rand(5, 1, 6, 6), torch.arange(5) % 4, 0.02)
    assert float(shares.min()) > 0
    assert float(shares.max()) <= 1


def test_the_bound_that_holds_and_the_one_that_does_not():
    """x -> its first pixel: both condition numbers are 1, and an image dark there changes relatively much more."""
    from conditioning import changes, lengths, products

    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
        x = torch.tensor([[0.01, 1, 1, 1]]).view(1, 1, 2, 2)
        delta = torch.tensor([[0.1, 0, 0, 0]]).view(1, 1, 2, 2)
        assert products(net) == (1.0, 1.0, 1.0)
        change = changes(net, x, delta)
        assert float(change) > 100
        assert float(change) <= float(lengths(x) / lengths(net(x))) * 1.0001


def test_compressed_layers_are_measured_as_the_matrices_they_are():
    """A rank-2 factorisation of a 6 x 8 layer, as ours and as CondLR's, has rank shares of at most 2 of 6."""
    from from_others import condense
    from layers import measured

    from art_lowrank.weights import factorize

    for build in (lambda net: factorize(net, ranks={"0": 2}, fresh=True), lambda net: condense(net, {"0": 2})):
        torch.manual_seed(0)
        (layer,) = measured(build(nn.Sequential(nn.Linear(8, 6))))
        assert layer["low_rank"]
        assert layer["shape"] == [6, 8]
        assert max(layer[name] for name in ("stable", "ratio", "entropy")) <= 2 / 6 + 1e-5


def test_masked_gradients_are_seen():
    """Logits a thousand times too large: cross-entropy has no gradient, the rescaled net breaks as it should."""
    import looks
    from worlds import images_of, model_of

    net = model_of("digits_standard")
    seen = looks.Split(*(part[:60] for part in images_of("digits", 60)))
    found = looks.masking(lambda x: 1000 * net(x), seen, "1.0")
    assert found["zero"] > 40
    holds = {name: sum(int(digit, 16).bit_count() for digit in text) for name, text in found["1.0"].items()}
    assert holds["ce"] > holds["rescaled"] + 20
    plain = looks.masking(net, seen, "1.0")
    assert plain["1.0"]["rescaled"] == found["1.0"]["rescaled"]


def test_a_question_runs_from_the_command(tmp_path, monkeypatch, capsys):
    """Ten digits, once; asked again nothing is run, and a killed line is measured anew."""
    import evidence

    results = tmp_path / "found.jsonl"
    arguments = ["--world", "digits", "--small", "--n", "10", "--only", "weights", "bound", "--match", ", none"]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *arguments, "--results", str(results)])
    evidence.main()
    assert len(read(results)) == 3
    assert "not measured" in capsys.readouterr().out.lower()
    whole = results.read_bytes()
    evidence.main()
    assert results.read_bytes() == whole
    results.write_bytes(whole[:-20])
    evidence.main()
    assert [record.id for record in read(results)] == [record.id for record in read(results)]
    assert len({record.id for record in read(results)}) == 3
