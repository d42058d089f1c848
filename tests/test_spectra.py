"""Diagonal matrices, whose every measure is known, then what must hold for any matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from art_lowrank import spectra

RANKS = (spectra.stable_rank, spectra.ratio_rank, spectra.entropy_rank, spectra.numerical_rank)


def diagonal(*values: float) -> torch.Tensor:
    """A 3 x 4 matrix with these singular values, in an order that is not sorted."""
    matrix = torch.zeros(3, 4, dtype=torch.float64)
    matrix[range(len(values)), range(len(values))] = torch.tensor(values, dtype=torch.float64)
    return matrix.flip(0)


def random_matrices(seed: int, rank: int, shape: tuple[int, ...] = (6, 5)) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    left = torch.randn(*shape[:-1], rank, generator=draw, dtype=torch.float64)
    right = torch.randn(*shape[:-2], rank, shape[-1], generator=draw, dtype=torch.float64)
    return left @ right


def test_measures_of_a_diagonal_matrix() -> None:
    m = diagonal(1, -2, 1)
    assert spectra.singular_values(m).tolist() == pytest.approx([2, 1, 1])
    assert spectra.nuclear_norm(m).item() == pytest.approx(4)
    assert spectra.stable_rank(m).item() == pytest.approx(6 / 4)
    assert spectra.ratio_rank(m).item() == pytest.approx(16 / 6)
    assert spectra.entropy_rank(m).item() == pytest.approx(2**1.5)
    assert spectra.numerical_rank(m).item() == 3
    assert spectra.numerical_rank(m, tol=0.5).item() == 1
    assert [spectra.energy(m, rank).item() for rank in (1, 2, 3, 9)] == pytest.approx([4 / 6, 5 / 6, 1, 1])
    assert [spectra.tail(m, rank).item() for rank in (1, 2, 3, 9)] == pytest.approx([0.5, 0.5, 0, 0])


def test_flat_and_single_spectra_agree_on_the_rank() -> None:
    for measure in RANKS:
        assert measure(diagonal(5, 5, 5)).item() == pytest.approx(3)
        assert measure(diagonal(7)).item() == pytest.approx(1)


def test_zero_matrices_are_not_nan() -> None:
    m = torch.stack([torch.zeros(3, 4), torch.ones(3, 4)])
    for measure in RANKS:
        assert measure(m).tolist() == pytest.approx([0, 1])
    assert spectra.energy(m, 1).tolist() == pytest.approx([1, 1])
    assert spectra.tail(m, 1).tolist() == pytest.approx([0, 0])
    assert spectra.nuclear_norm(m).tolist() == pytest.approx([0, 12**0.5])


def test_perturbation_norm_sums_over_channels() -> None:
    delta = torch.zeros(2, 3, 3, 4)
    delta[0, 0], delta[0, 2], delta[1, 1] = diagonal(1, 2), diagonal(3), diagonal(1, 1, 1)
    assert spectra.perturbation_nuclear_norm(delta).tolist() == pytest.approx([6, 3])


def test_leading_axes_are_kept_and_rows_are_independent() -> None:
    m = random_matrices(0, rank=4, shape=(2, 3, 6, 5))
    for measure in (*RANKS, spectra.nuclear_norm, lambda m: spectra.energy(m, 2), lambda m: spectra.tail(m, 2)):
        assert measure(m).shape == (2, 3)
        torch.testing.assert_close(measure(m)[1, 2], measure(m[1, 2]))
    assert spectra.singular_values(m).shape == (2, 3, 5)


def test_half_precision_and_extreme_scales_lose_nothing() -> None:
    m = random_matrices(1, rank=3)
    for dtype in (torch.bfloat16, torch.float16):
        assert spectra.singular_values(m.to(dtype)).dtype == torch.float64
        torch.testing.assert_close(spectra.nuclear_norm(m.to(dtype)), spectra.nuclear_norm(m.to(dtype).double()))
    # The squares of these entries are below and above what float64 can hold.
    for scale in (1e-200, 1e200):
        for measure in RANKS:
            torch.testing.assert_close(measure(m * scale), measure(m))
        torch.testing.assert_close(spectra.energy(m * scale, 1), spectra.energy(m, 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_invariants_of_random_matrices(seed: int, rank: int) -> None:
    m = random_matrices(seed, rank)
    stable, ratio, entropy, numerical = (measure(m).item() for measure in RANKS)
    slack = 1 + 1e-9
    assert stable * slack >= 1
    assert stable <= ratio * slack  # sum of s^2 against (sum of s)^2 / sum of s^2, with s <= 1
    assert ratio <= entropy * slack  # Renyi entropy falls with its order
    assert entropy <= rank * slack
    assert numerical <= rank
    for measure in (*RANKS, spectra.nuclear_norm):
        torch.testing.assert_close(measure(m.mT), measure(m))
    kept = [spectra.energy(m, r).item() for r in range(1, 6)]
    assert kept == sorted(kept)
    assert kept[rank - 1] == pytest.approx(1)
    assert rank == 5 or spectra.tail(m, rank).item() < 1e-12


def test_energy_is_what_the_best_low_rank_copy_keeps() -> None:
    m = random_matrices(3, rank=5)
    u, s, v = torch.linalg.svd(m, full_matrices=False)
    copy = u[:, :2] * s[:2] @ v[:2]
    torch.testing.assert_close(spectra.energy(m, 2), 1 - (m - copy).square().sum() / m.square().sum())


def test_input_is_left_alone() -> None:
    m = random_matrices(4, rank=2)
    before = m.clone()
    for measure in RANKS:
        measure(m)
    assert torch.equal(m, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectra.nuclear_norm(torch.zeros(3)), r"shape \(3,\)"),
        (lambda: spectra.stable_rank(torch.zeros(2, 0, 3)), r"not empty, got shape \(2, 0, 3\)"),
        (lambda: spectra.nuclear_norm(torch.full((2, 2), torch.nan)), "NaN"),
        (lambda: spectra.perturbation_nuclear_norm(torch.zeros(3, 4, 4)), r"\(n, c, h, w\), got \(3, 4, 4\)"),
        (lambda: spectra.energy(torch.eye(3), 0), "at least 1, got 0"),
        (lambda: spectra.tail(torch.eye(3), 0.1), "at least 1, got 0.1"),
        (lambda: spectra.numerical_rank(torch.eye(3), tol=1.0), "got 1.0"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_change_of_one_singular_value_is_found() -> None:
    """Image 4, 2, 0 becomes 4, 3, 0: value 2 changes by a half of itself and a quarter of the first; rank one."""
    x, moved = diagonal(4, 2).view(1, 1, 3, 4) / 8, diagonal(4, 3).view(1, 1, 3, 4) / 8
    found = spectra.perturbed(x, moved)
    assert found.change[0].tolist() == pytest.approx([0, 0.5, float("nan")], nan_ok=True)
    assert found.shift[0].tolist() == pytest.approx([0, 0.25, 0])
    assert found.energy[0].tolist() == pytest.approx([1, 1, 1])
    assert [rank.item() for rank in found[3:]] == pytest.approx([1, 1, 1])


def test_energy_is_of_all_channels_together() -> None:
    """Channels 3 and 1 + 1: of 11, the first values hold 10 and both hold all."""
    x = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    moved = torch.stack([diagonal(3), diagonal(1, 1)]).unsqueeze(0)
    found = spectra.perturbed(x, moved)
    assert found.energy[0].tolist() == pytest.approx([10 / 11, 1, 1])
    assert found.stable.item() == pytest.approx((1 + 2) / 2)
    assert found.change.isnan().all()  # a black image has no singular values


def test_a_channel_that_lacks_a_singular_value_does_not_count() -> None:
    """Value 2 doubles in one channel, and comes out of nothing in the other."""
    x = torch.stack([diagonal(4, 1), diagonal(4)]).unsqueeze(0)
    moved = torch.stack([diagonal(4, 2), diagonal(4, 3)]).unsqueeze(0)
    found = spectra.perturbed(x, moved)
    assert found.change[0, :2].tolist() == pytest.approx([0, 1])
    assert found.shift[0, 1].item() == pytest.approx((1 / 4 + 3 / 4) / 2)


def test_images_that_stay_as_they_were() -> None:
    x = random_matrices(0, 3, (2, 1, 6, 5)).abs() / 100
    found = spectra.perturbed(x, x)
    assert not found.change.nan_to_num().any()
    assert found.energy.eq(1).all()
    assert not torch.stack(found[3:]).any()


def test_noise_is_as_long_as_the_perturbation_also_where_the_box_takes_some() -> None:
    x = torch.full((3, 2, 6, 5), 0.5)
    x[2] = 1.0  # half of its noise is beyond the bound
    moved = x - torch.tensor([0.0, 0.01, 0.2]).view(3, 1, 1, 1)
    noisy = spectra.noise_like(x, moved)
    lengths = [(image - x).flatten(1).norm(dim=1) for image in (noisy, moved)]
    assert lengths[0].tolist() == pytest.approx(lengths[1].tolist(), rel=1e-5, abs=1e-6)
    assert noisy.aminmax() == (pytest.approx(noisy.min()), 1)
    assert noisy.min() >= 0


def test_noise_follows_from_an_images_place() -> None:
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = (x + 0.1).clamp(0, 1)
    noisy = spectra.noise_like(x, moved)
    assert torch.equal(noisy[1:], spectra.noise_like(x[1:], moved[1:], places=[1, 2]))
    assert not torch.equal(noisy[1:], spectra.noise_like(x[1:], moved[1:]))


def test_noise_cannot_be_longer_than_the_box() -> None:
    """From black, a perturbation out of the box has a length that no image inside it has."""
    noisy = spectra.noise_like(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), -3.0))
    assert noisy.min() >= 0
    assert noisy.max() <= 1


@pytest.mark.parametrize(
    ("x", "moved", "said"),
    [
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3), r"got \(1, 1, 2, 2\) and \(1, 1, 2, 3\)"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, 1, 2, 2), "divide bytes by 255"),
        (torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), torch.nan), "NaN or infinite"),
    ],
)
def test_images_that_cannot_be_compared(x, moved, said) -> None:
    for function in (spectra.perturbed, spectra.noise_like):
        with pytest.raises(ValueError, match=said):
            function(x, moved)


def test_ranks_are_of_the_channels_that_were_changed() -> None:
    x = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta = torch.zeros_like(x)
    delta[0, 1, range(2), range(2)] = 0.1
    found = spectra.perturbed(x, x + delta)
    assert [rank.item() for rank in found[3:]] == pytest.approx([2, 2, 2])
