"""Closed forms and published values first, then what must hold for any outcomes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_lowrank.statistics import (
    Interval,
    mcnemar,
    mean_interval,
    mean_paired_difference,
    median_ratio,
    paired_difference,
    wilson,
)

FLAGS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def test_text_of_an_interval() -> None:
    assert Interval(0.53, 0.49, 0.57).percent() == "53.0 % [49.0, 57.0]"
    assert Interval(0.53, 0.49, 0.57).percent(digits=0) == "53 % [49, 57]"
    assert Interval(-0.031, -0.04, -0.022).points() == "-3.1 points [-4.0, -2.2]"
    assert Interval(0.031, -0.0001, 0.0622).points() == "+3.1 points [+0.0, +6.2]"
    assert str(Interval(1.25, 1.2, 1.31)) == "1.25 [1.2, 1.31]"
    assert Interval(0.0, -math.inf, math.inf).points() == "+0.0 points [-inf, +inf]"


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3, and the textbook 8 of 10
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (8, 10, 0.4902, 0.9433),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((successes / n, low, high), abs=5e-5)


@given(st.integers(1, 10**6), st.data())
def test_wilson_holds_its_share_and_mirrors(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    value, low, high = wilson(k, n)
    assert 0 <= low <= value <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - value, 1 - high, 1 - low), abs=1e-12)
    assert wilson(k, n, 0.99).high >= high


def test_mean_interval_by_hand() -> None:
    # mean 3, sample deviation sqrt(2.5), t(0.975, 4) = 2.776445
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)
    assert mean_interval([0.7]) == (0.7, -math.inf, math.inf)


def test_paired_difference_by_hand() -> None:
    # differences 0 1 1 0: mean 0.5, variance of the mean 1/12, t(0.975, 3) = 3.182446
    half = 3.182446 / math.sqrt(12)
    by_hand = pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    assert paired_difference([1, 1, 1, 0], [True, False, False, False]) == by_hand
    # The same per-image differences after averaging two seeds; four images stay four units, not eight.
    seeds = [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert paired_difference(seeds, [[0, 0, 0, 1], [1, 0, 0, 0]]) == by_hand
    assert paired_difference([[1, 1, 1, 1]] * 2, [1, 0, 0, 1]) == by_hand


@given(FLAGS)
def test_paired_difference_is_antisymmetric_and_repeated_seeds_add_nothing(flags: list[tuple[bool, bool]]) -> None:
    a, b = np.array(flags).T
    value, low, high = paired_difference(a, b)
    assert low <= value <= high
    assert paired_difference(b, a) == pytest.approx((-value, -high, -low))
    assert paired_difference([a, a, a], [b, b, b]) == pytest.approx((value, low, high))


def test_mean_over_nets_keeps_shared_images_together() -> None:
    a, b = np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0])
    one = paired_difference(a, b)
    assert mean_paired_difference([(a, b)]) == one
    # Three nets that agree image by image say no more than one: shared images are not three times as many.
    assert mean_paired_difference([(a, b)] * 3) == pytest.approx(one)
    # Differences 0 1 1 0 and 1 0 0 1 cancel image by image.
    assert mean_paired_difference([(a, b), (1 - (a - b), np.zeros(4))]) == pytest.approx((0.5, 0.5, 0.5))


def test_mean_over_nets_with_other_images_by_hand() -> None:
    # Net 1: 0 1 1 0, variance of the mean 1/12 with 3 degrees of freedom; net 2: 1 0, variance 1/4 with 1.
    # Mean 0.5 with variance (1/12 + 1/4) / 4 = 1/12 and (1/3)^2 / ((1/12)^2 / 3 + (1/4)^2) = 12/7 degrees of freedom.
    half = 5.068500 / math.sqrt(12)
    found = mean_paired_difference([([0, 1, 1, 0], [0, 0, 0, 0]), ([1, 1], [0, 1])])
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-5)
    # Nets without any spread, and a net with a single image.
    assert mean_paired_difference([([1, 1], [0, 0]), ([1, 1, 1], [1, 1, 1])]) == (0.5, 0.5, 0.5)
    assert mean_paired_difference([([1], [0]), ([1, 0, 1], [1, 1, 1])]).high == math.inf


def test_mcnemar_by_hand() -> None:
    a, b = [1] + [0] * 9 + [1, 0], [0] + [1] * 9 + [1, 0]
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar([1, 1, 1, 1, 1, 1], [0] * 6) == pytest.approx(2 / 2**6)
    assert mcnemar([1, 0], [0, 1]) == 1.0
    assert mcnemar([1, 0], [1, 0]) == 1.0


@given(FLAGS)
def test_mcnemar_is_symmetric_and_looks_at_disagreements_only(flags: list[tuple[bool, bool]]) -> None:
    a, b = np.array(flags).T
    p = mcnemar(a, b)
    assert 0 < p <= 1
    assert mcnemar(b, a) == p
    assert mcnemar([*a, 1, 0], [*b, 1, 0]) == p


def test_median_ratio() -> None:
    assert median_ratio([2, 4, 6], [1, 2, 3]) == (2.0, 2.0, 2.0)
    assert median_ratio([3], [2]) == (1.5, -math.inf, math.inf)
    below = np.random.default_rng(1).lognormal(size=101)
    above = below * np.random.default_rng(2).lognormal(math.log(3), 0.2, size=101)
    found = median_ratio(above, below)
    assert found == median_ratio(above, below)
    assert found.value == np.median(above / below)
    assert found.low < 3 < found.high
    # For a normal log ratio the deviation of the median is 1.2533 * 0.2 / sqrt(101) = 0.025.
    assert math.log(found.high / found.low) == pytest.approx(2 * 1.96 * 0.025, rel=0.3)
    assert median_ratio(4 * above, below) == pytest.approx(tuple(4 * end for end in found))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(11, 10), "successes=11, n=10"),
        (lambda: wilson(0, 0), "n=0"),
        (lambda: wilson(-1, 10), "successes=-1"),
        (lambda: wilson(1, 10, confidence=95), "got 95: write 0.95"),
        (lambda: mean_interval([]), "empty"),
        (lambda: mean_interval([0.5, math.nan]), "NaN"),
        (lambda: mean_interval([[0.5]]), r"must have shape \(n,\), got \(1, 1\)"),
        (lambda: paired_difference([1, 0], [1]), "same images, got 2 and 1"),
        (lambda: paired_difference(1, 0), r"\(n,\) or \(seeds, n\), got \(\)"),
        (lambda: mean_paired_difference([]), "at least one"),
        (lambda: mcnemar([0.5], [1]), "0 or 1"),
        (lambda: mcnemar([1], [1, 0]), "same images, got 1 and 2"),
        (lambda: median_ratio([1, 2], [1]), "same pairs, got 2 and 1"),
        (lambda: median_ratio([1.0], [0.0]), "above 0, got 0"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
