"""Intervals and tests for accuracies, paired differences and times.

Accuracies are shares in [0, 1]; `Interval.percent` and `Interval.points` turn them into text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special  # not stats, which takes a second to import

Array = npt.NDArray[np.float64]
RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate between the two ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The plain numbers: `1.25 [1.2, 1.31]`."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def percent(self, digits: int = 1) -> str:
        """A share as percent: `53.0 % [49.0, 57.0]`."""
        value, low, high = (f"{100 * number:z.{digits}f}" for number in self)
        return f"{value} % [{low}, {high}]"

    def points(self, digits: int = 1) -> str:
        """A difference of two shares as signed percentage points: `-3.1 points [-4.0, -2.2]`."""
        value, low, high = (f"{100 * number:+z.{digits}f}" for number in self)
        return f"{value} points [{low}, {high}]"


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share: `wilson(8, 10)` is 0.8 in [0.490, 0.943]."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    z = float(special.ndtri(_upper(confidence)))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    # At the two ends the formula gives exactly 0 or 1; rounding would put the share itself outside.
    return Interval(share, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of independent values (n,) with Student's t interval; one value alone gives (-inf, inf)."""
    return _t_interval(_moments(_finite(values, "values", dims=(1,))), confidence)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """mean(a) - mean(b) over the same images, each of shape (n,) or (seeds, n), with a t interval over images.

    Images are the units and seeds are repeated measures, so seeds are averaged first: ten seeds on 100 images are
    100 observations. Outcomes that differ alike on every image give an interval of width zero: quote n beside it.
    """
    return mean_interval(_image_differences(a, b), confidence)


def mean_paired_difference(pairs: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], confidence: float = 0.95) -> Interval:
    """The paired difference (a, b) averaged over several fixed nets of equal weight.

    Equal numbers of images are taken to be the same images in the same order: their differences are averaged over
    the nets first, which keeps what the nets have in common. Otherwise the nets count as independent: their
    standard errors are combined, with Welch and Satterthwaite's degrees of freedom.
    """
    differences = [_image_differences(a, b) for a, b in pairs]
    if not differences:
        raise ValueError("mean_paired_difference needs at least one (a, b) pair, got none")
    if len({len(difference) for difference in differences}) == 1:
        return mean_interval(np.mean(differences, axis=0), confidence)
    return _t_interval(_independent_mean([_moments(difference) for difference in differences]), confidence)


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """McNemar's exact two-sided p-value: are a and b, each (n,) of 0 or 1 on the same images, right equally often?

    Only images where they disagree count: 1 against 9 gives 2 * (1 + 10) / 2**10 = 0.0215.
    """
    first, second = _finite(a, "a", dims=(1,)), _finite(b, "b", dims=(1,))
    _same_images(first, second)
    if not all(np.isin(outcomes, (0, 1)).all() for outcomes in (first, second)):
        raise ValueError("mcnemar needs outcomes of 0 or 1; for averages over seeds use paired_difference")
    only_first, only_second = int(np.sum(first > second)), int(np.sum(second > first))
    tail = float(special.bdtr(min(only_first, only_second), only_first + only_second, 0.5))
    return min(1.0, 2 * tail)


def median_ratio(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The median of numerator / denominator, pair by pair (n,), with a bootstrap percentile interval: for timings.

    The pairs are resampled as they are, so a slow moment that hit both sides of a pair stays in both.
    """
    above, below = _finite(numerator, "numerator", dims=(1,)), _finite(denominator, "denominator", dims=(1,))
    _same_images(above, below, names="numerator and denominator", units="pairs")
    if below.min() <= 0:
        raise ValueError(f"median_ratio needs denominators above 0, got {below.min():g}: time more work per repeat")
    ratios, upper = above / below, _upper(confidence)
    if len(ratios) == 1:
        return Interval(float(ratios[0]), -math.inf, math.inf)
    draws = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [1 - upper, upper])
    return Interval(float(np.median(ratios)), float(low), float(high))


class _Moments(NamedTuple):
    """A mean, the variance of that mean, and the degrees of freedom behind the variance."""

    mean: float
    variance: float
    freedom: float


def _moments(values: Array) -> _Moments:
    n = len(values)
    return _Moments(float(values.mean()), float(values.var(ddof=1)) / n if n > 1 else math.inf, max(n - 1, 1))


def _independent_mean(parts: Sequence[_Moments]) -> _Moments:
    total = sum(part.variance for part in parts)
    mean = sum(part.mean for part in parts) / len(parts)
    squares = sum(part.variance**2 / part.freedom for part in parts)
    # The limits need no degrees of freedom: without any variance the interval is a point, with an infinite one a line.
    freedom = total**2 / squares if 0 < squares < math.inf else 1.0
    return _Moments(mean, total / len(parts) ** 2, freedom)


def _t_interval(moments: _Moments, confidence: float) -> Interval:
    half = float(special.stdtrit(moments.freedom, _upper(confidence))) * math.sqrt(moments.variance)
    return Interval(moments.mean, moments.mean - half, moments.mean + half)


def _upper(confidence: float) -> float:
    """The upper quantile of a two-sided interval: 0.975 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}: write 0.95 for 95 %")
    return (1 + confidence) / 2


def _image_differences(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    first, second = (_finite(outcomes, name, dims=(1, 2)) for outcomes, name in ((a, "a"), (b, "b")))
    _same_images(first, second)
    difference: Array = np.atleast_2d(first).mean(axis=0) - np.atleast_2d(second).mean(axis=0)
    return difference


def _same_images(first: Array, second: Array, names: str = "a and b", units: str = "images") -> None:
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"{names} must cover the same {units}, got {first.shape[-1]} and {second.shape[-1]}")


def _finite(values: npt.ArrayLike, name: str, dims: tuple[int, ...]) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in dims:
        shapes = " or ".join({1: "(n,)", 2: "(seeds, n)"}[dim] for dim in dims)
        raise ValueError(f"{name} must have shape {shapes}, got {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite numbers: drop those pairs, or count them as failures, first")
    return array
