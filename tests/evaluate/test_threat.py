"""What counts as allowed: norms by their names, radii, rounding, NaN, the box."""

from __future__ import annotations

import math

import pytest
import torch

from art_lowrank.evaluate.threat import Threat, norm_name, number, threat_of

X = torch.full((1, 1, 4, 4), 0.5)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("L1", [1, 1.0, "1", "L1", "l_1"]),
        ("L2", [2, 2.0, "2", "L2", "l2", "l_2"]),
        ("Linf", [math.inf, "inf", "Linf", "linf", "l_inf", "L_Infinity"]),
        ("nuc", ["nuc", "NUC"]),
        ("group-nuc", ["group-nuc"]),
    ],
)
def test_hosts_spellings_give_one_name(name, spellings):
    assert {norm_name(spelling, "here") for spelling in spellings} == {name}


@pytest.mark.parametrize("norm", ["3", "", None, True, "L22", "infinite", [2]])
def test_other_norms_are_refused(norm):
    with pytest.raises(ValueError, match=r"^here: norm is .*choose 2, inf"):
        norm_name(norm, "here")


@pytest.mark.parametrize("eps", [-1, math.nan, math.inf, "0.5", None, True, [0.5]])
def test_a_radius_is_one_number(eps):
    with pytest.raises(ValueError, match=r"^here: eps is .*give one radius"):
        threat_of("2", eps, "here")


@pytest.mark.parametrize(
    ("norm", "length"),
    [("L1", 16.0), ("L2", 4.0), ("Linf", 1.0), ("nuc", 4.0), ("group-nuc", 8.0)],
)
def test_a_constant_step_is_measured_and_allowed_up_to_rounding(norm, length):
    size = 0.25
    moved, eps = X + size, size * length
    tile = 2 if norm == "group-nuc" else None
    assert Threat(norm, eps, tile).distances(X, moved).item() == pytest.approx(eps)
    assert Threat(norm, eps * (1 - 5e-6), tile).allows(X, moved).all()
    assert not Threat(norm, eps * (1 - 1e-4), tile).allows(X, moved).any()


@pytest.mark.parametrize(
    ("pixel", "allowed"),
    [
        (1.0, True),
        (1 + 5e-7, True),
        (1.001, False),
        (-5e-7, True),
        (-0.001, False),
        (math.nan, False),
        (math.inf, False),
    ],
)
def test_pixels_stay_in_the_box_and_are_numbers(pixel, allowed):
    moved = X.clone()
    moved[0, 0, 1, 2] = pixel
    assert Threat("L2", 2.0).allows(X, moved).item() is allowed


def test_no_radius_allows_only_what_was_not_moved_and_judges_images_apart():
    x = torch.cat([X, X])
    moved = x.clone()
    moved[1] += 1e-3
    assert Threat("Linf", 0.0).allows(x, moved).tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (8 / 255, "8/255"), (0.03137254901960784, "8/255"), (1, "1"), (51 / 255, "0.2"), (0.0314, "0.0314")],
)
def test_radii_are_written_as_people_do(value, text):
    assert number(value) == text


def test_threats_that_allow_different_things_have_different_texts():
    assert str(Threat("group-nuc", 0.5, 2)) != str(Threat("group-nuc", 0.5, 4))
    assert str(threat_of("inf", 8 / 255, "here")) == "Linf 8/255"
