"""Noise that follows from seed, epoch and image: the same in any batch, evenly spread, unlike its neighbours."""

from __future__ import annotations

import pytest
import torch

from art_lowrank.training import SingleStep
from art_lowrank.training.adversaries import noise
from art_lowrank.training.chance import STRIDE, normal, step_number, uniform
from art_lowrank.training.measure import measured
from art_lowrank.training.moves import Place

LIKE = torch.empty(0)


def splitmix(word):
    """Written down once more, on Python's whole numbers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def by_hand(index, number, draw, place):
    key = 0
    for part in (number // STRIDE, draw):
        key = splitmix((key + part + 1) * 0x9E3779B97F4A7C15 % 2**64)
    word = splitmix((index * 0x9E3779B97F4A7C15 + key) % 2**64)
    low, high = word % 2**32, word >> 32
    bits = (place + low) % 2**32
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ bits >> shift) * factor % 2**32 ^ high
    bits ^= bits >> 16
    return ((bits >> 8) - 2**24 * (bits >> 31) + 0.5) / 2**23


def test_every_number_is_that_of_the_formula():
    indices = torch.tensor([0, 1, 49_999, 2**40])
    for number, draw in ((0, 0), (step_number(3, 5, 17), 2)):
        found = uniform(indices, (2, 300, 200), number, draw, LIKE).flatten(1)
        for row, index in enumerate(indices.tolist()):
            for place in (0, 1, 65_535, 65_536, 119_999):
                assert float(found[row, place]) == pytest.approx(by_hand(index, number, draw, place), abs=1e-7)


def test_an_image_takes_its_noise_into_any_batch_and_any_step_of_the_epoch():
    first, step = torch.tensor([5, 900, 7]), step_number(1, 2, 3)
    for draw in (uniform, normal):
        found = draw(first, (3, 8, 8), step, 0, LIKE)
        again = draw(first.flip(0)[1:], (3, 8, 8), step_number(1, 2, 40), 0, LIKE)
        assert torch.equal(again, found[:2].flip(0))
        for other in (step_number(2, 2, 3), step_number(1, 3, 3)):
            assert not (draw(first, (3, 8, 8), other, 0, LIKE) == found).any(1).any(1).any()
        assert (draw(first, (3, 8, 8), step, 1, LIKE) != found).float().mean() > 0.99
    assert uniform(first, (4,), step, 0, LIKE.double()).dtype == torch.float64
    assert uniform(first[:0], (4,), step, 0, LIKE).shape == (0, 4)


def test_numbers_are_even_normal_and_unlike_their_neighbours():
    found = uniform(torch.arange(4096), (1, 16, 16), 0, 0, LIKE).flatten(1)
    counts = torch.histc(found, 1024, -1, 1)
    assert abs(float(((counts - 1024) ** 2 / 1024).sum()) - 1023) < 5 * (2 * 1023) ** 0.5  # chi-squared
    assert found.abs().max() < 1
    spread = 3 / found.numel() ** 0.5  # three standard deviations, of products of variance 1 / 9
    for moved in (found.roll(1, 0), found.roll(1, 1), found.roll(16, 1), found.roll((1, -1), (0, 1))):
        assert abs(float((found * moved).mean())) < spread
    bell = normal(torch.arange(4096), (1, 16, 16), 0, 0, LIKE)
    assert abs(float(bell.mean())) < 4 / 1024
    assert float(bell.std()) == pytest.approx(1, abs=4e-3)
    assert float((bell**4).mean()) == pytest.approx(3, abs=0.05)
    assert torch.isfinite(bell).all()
    half = normal(torch.arange(4096), (1, 16, 16), 0, 0, LIKE.bfloat16())
    assert torch.isfinite(half).all()


@pytest.mark.parametrize("norm", [2, "inf"])
def test_a_single_step_in_a_batch_is_that_of_its_rows(norm):
    x, y = torch.rand(6, 1, 5, 5), torch.arange(6) % 3
    attack = SingleStep(0.3, norm)

    def logits(x):
        return x.flatten(1)[:, :3].square()

    whole = attack.at(Place(torch.arange(6)))(logits, x, y, 5)
    rows = torch.tensor([4, 1])
    assert torch.equal(attack.at(Place(rows))(logits, x[rows], y[rows], 8), whole[rows])
    assert repr(attack.at(Place(rows))) == repr(attack)
    assert torch.equal(noise(x, norm, 5), noise(x, norm, 5))


def test_validation_draws_by_place_in_the_data():
    x, y = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    seen = []

    class Noted(SingleStep):
        def __call__(self, *given):
            seen.append(self.indices.tolist())
            return super().__call__(*given)

    measured(net, net, x, y, Noted(0.3), batch=5)
    assert seen == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
