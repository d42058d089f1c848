"""What a store is given: moved images, single rows, the caller's tensors; numbers it refuses in one line."""

from __future__ import annotations

import warnings

import pytest
import torch

from art_lowrank.attack.factors import identity, truncated
from art_lowrank.training import Moves, PerturbationStore
from art_lowrank.training.store import usual_rank

N, SHAPE, RANK = 4, (1, 16, 20), 2
ALL, SIZE = torch.arange(N), (16, 20)


def noise(seed=0, n=N, shape=SHAPE):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) / 10


def store(path=None, rank=RANK, **given):
    return PerturbationStore(**{"n": N, "shape": SHAPE, "rank": rank, "path": path, **given})


def saved(delta, rank=RANK, moves=None, indices=ALL):
    """A store after an epoch with these perturbations, at the beginning of the next."""
    one = store(None, rank)
    one.begin(0)
    one.save(indices, delta, moves)
    one.commit()
    one.begin(1)
    return one


def refused(kind, match, action):
    with pytest.raises(kind, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a, b, atol=1e-3):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["factors", "dense", "full"])
def test_perturbations_come_back_in_the_frame_of_other_moves(kind):
    there = Moves(
        torch.tensor([[1.0, -1.0], [1, 1], [1, -1], [1, 1]]), torch.tensor([[2.0, 18], [-3, 0], [0, 25], [0, 0]])
    )
    again = Moves.random(N, SIZE, torch.Generator().manual_seed(3))
    given = truncated(noise(), RANK)
    shown = there.factors(given, SIZE) if kind == "factors" else there.images(given.dense(), SIZE)
    one = saved(shown, "full" if kind == "full" else RANK, there)
    kept = there.inverse().images(there.images(torch.ones(N, *SHAPE), SIZE), SIZE)
    same(one.load(ALL).dense(), given.dense() * kept)
    same(one.load(ALL, there, SIZE).dense(), there.images(given.dense(), SIZE))
    same(one.load(ALL, again).dense(), again.images(given.dense() * kept, SIZE))
    assert one.load(ALL, again, (9, 30)).dense().shape[2:] == (9, 30)


def test_crops_of_another_size_are_kept_in_the_frame():
    moves = Moves(torch.ones(N, 2), torch.full((N, 2), 4.0))
    one = saved(torch.ones(N, 1, 8, 8), moves=moves)
    expected = torch.zeros(N, *SHAPE)
    expected[:, :, 4:12, 4:12] = 1
    same(one.load(ALL).dense(), expected)


@pytest.mark.parametrize("rank", [RANK, "full"])
def test_saving_a_batch_is_saving_its_rows(rank):
    moves = Moves.random(N, SIZE, torch.Generator().manual_seed(1))
    batch, rows = store(rank=rank), store(rank=rank)
    for number in range(2):  # without factors to start from, then with; in another order
        delta, order = noise(number), torch.tensor([2, 0, 3, 1])
        for one in (batch, rows):
            one.begin(number)
        batch.save(order, delta, moves)
        for k in range(N):
            row = torch.tensor([k])
            rows.save(order[row], delta[row], moves.rows(row))
        for one in (batch, rows):
            one.commit()
    for one in (batch, rows):
        one.begin(2)
    same(batch.load(ALL).dense(), rows.load(ALL).dense(), 2e-4)
    found = [rows.load(ALL[k : k + 1]).dense() for k in range(N)]
    assert torch.equal(rows.load(ALL).dense(), torch.cat(found))


def test_known_images_take_one_step_from_their_factors():
    one, delta = saved(noise()), noise(1)
    left = torch.linalg.qr(delta @ one.load(ALL).right.mT).Q
    expected = left @ left.mT @ delta
    expected *= (delta.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    one.save(ALL, delta)
    one.commit()
    one.begin(2)
    same(one.load(ALL).dense(), expected)


def test_known_and_new_images_in_one_batch_are_kept_as_alone():
    one, delta = saved(noise()[:2], indices=ALL[:2]), noise(1)
    one.save(ALL, delta)
    one.commit()
    one.begin(2)
    known, new = saved(noise()[:2], indices=ALL[:2]), saved(delta[2:], indices=ALL[2:])
    known.save(ALL[:2], delta[:2])
    known.commit()
    known.begin(2)
    same(one.load(ALL[:2]).dense(), known.load(ALL[:2]).dense(), 2e-4)
    same(one.load(ALL[2:]).dense(), new.load(ALL[2:]).dense(), 2e-4)


@pytest.mark.parametrize("rank", [RANK, "full"])
@pytest.mark.parametrize("kind", ["factors", "dense"])
def test_nothing_of_the_callers_is_changed(rank, kind):
    given = truncated(noise(), RANK) if kind == "factors" else noise().requires_grad_()
    moves, indices = Moves.random(N, SIZE, torch.Generator().manual_seed(1)), ALL.clone()
    parts = [*(given if kind == "factors" else [given]), *moves, indices]
    before = [part.detach().clone() for part in parts]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = saved(identity(given) if kind == "dense" and rank == "full" else given, rank, moves, indices)
    found = one.load(indices, moves).dense()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, parts, before))
    assert not found.requires_grad
    given = list(one.load(indices))
    given[0].zero_()
    assert torch.equal(one.load(indices, moves).dense(), found)


def test_indices_may_be_lists_and_come_twice_or_not_at_all():
    one = saved(noise(), "full")
    assert torch.equal(one.load([2, 2, 0]).dense(), one.load(ALL).dense()[[2, 2, 0]])
    one.save(ALL[:0], noise()[:0])
    assert len(one.load(ALL[:0]).dense()) == 0


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([0, N]), f"indices run from 0 to {N}; the store has {N} images"),
        (torch.tensor([-1, 2]), f"indices run from -1 to 2; the store has {N} images"),
        (torch.tensor([0.0]), r"indices are torch.float32 of shape \(1,\); give whole numbers, one an image"),
        (torch.tensor([True]), "indices are torch.bool"),
        (torch.tensor([[1]]), r"torch.int64 of shape \(1, 1\); give whole numbers"),
        (torch.tensor(1), r"of shape \(\)"),
    ],
)
def test_indices_that_are_none(indices, message):
    one = saved(noise())
    before = one.load(ALL).dense()
    calls = (
        lambda: one.load(indices),
        lambda: one.seen(indices),
        lambda: one.save(indices, noise()[: indices.numel()]),
    )
    for call in calls:
        refused(ValueError, message, call)
    assert one.progress == 1
    one.commit()
    one.begin(2)
    assert torch.equal(one.load(ALL).dense(), before)


def test_calls_outside_an_epoch():
    one = store()
    calls = (
        lambda: one.load(ALL),
        lambda: one.save(ALL, noise()),
        lambda: one.seen(ALL),
        one.commit,
    )
    for _ in range(2):
        for call in calls:
            refused(ValueError, r"no epoch is under way; call begin\(epoch\) before it and commit\(\) after", call)
        one.begin(0)
        one.commit()


@pytest.mark.parametrize("number", [-1, 1.0, True, "1", None])
def test_epochs_that_are_none(number):
    refused(ValueError, f"epoch is {number!r}; give a whole number >= 0", lambda: store().begin(number))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(({"n": n}, f"n is {n!r}; give a whole number of at least 1") for n in (0, -1, 2.0, True, "5")),
        *(({"rank": rank}, f"rank is {rank!r}; give a whole number") for rank in (0, -1, 0.5, True, "half")),
        ({"rank": 17}, r"rank 17 exceeds min\(height, width\) = 16 of the images"),
        *(
            ({"shape": shape}, rf"shape is \({str(shape)[1:-1]}\); give \(channels, height, width\)")
            for shape in ((16, 20), (1, 16, 0), (1, 16.0, 20), (1, 1, 16, 20), (True, 16, 20))
        ),
    ],
)
def test_numbers_that_cannot_be(given, message):
    refused(ValueError, message, lambda: store(**given))


@pytest.mark.parametrize(("rank", "many"), [(2, False), (4, False), (5, True), (16, True), ("full", False)])
def test_ranks_that_take_more_than_a_byte_a_number_are_warned_of(rank, many):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one = store(rank=rank)
    assert len(caught) == many
    assert (2 * one.width > 16 * 20) == (many or rank == "full")
    if many:
        assert f"factors of rank {rank} take {2 * one.width} bytes an image" in str(caught[0].message)
        assert caught[0].filename == __file__


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (224, 224), (16, 20), (8, 8), (4, 4), (2, 3)])
@pytest.mark.parametrize(("norm", "most"), [("l2", 3), ("linf", 5)])
def test_usual_ranks_are_not_warned_of(size, norm, most):
    rank = usual_rank(norm, *size)
    assert rank == "full" or 1 <= rank <= most
    PerturbationStore(1, (3, *size), rank)
    assert rank == most or min(size) < 28


# Fails: `save` does not compare what it is given with the indices and with its shape. One row for four indices, and
# images turned by 90 degrees, are taken by the dense store in silence; the rest ends in torch's or numpy's words.
@pytest.mark.parametrize("rank", [RANK, "full"])
@pytest.mark.parametrize("shape", [(1, 1, 16, 20), (3, 1, 16, 20), (N, 2, 16, 20), (N, 1, 20, 16), (N, 16, 20)])
def test_perturbations_that_do_not_fit(rank, shape):
    one = saved(noise(), rank)
    refused(ValueError, "perturbation", lambda: one.save(ALL, torch.rand(shape)))


@pytest.mark.parametrize("kept", [1, 3])  # fails as well: numpy's "could not be broadcast"
def test_factors_of_another_rank(kept):
    one = saved(noise())
    refused(ValueError, f"rank.*{kept}", lambda: one.save(ALL, truncated(noise(), kept)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])  # the last two fail: no QR of halves
def test_perturbations_of_any_precision(dtype):
    given = truncated(noise(), RANK).dense()
    same(saved(given.to(dtype)).load(ALL).dense(), given, 5e-3)
