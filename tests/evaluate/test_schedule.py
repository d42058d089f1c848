"""Who gets which cell."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from art_lowrank.evaluate.plan import Cell
from art_lowrank.evaluate.schedule import pick, urgencies


def cell(model, attack="a", stop=1, needs=()):
    identity = {"model": model, "attack": attack}
    return Cell(model, "d", 0, stop, attack, 0, identity, tuple(need.id for need in needs))


def test_urgency_is_the_longest_way_to_the_end():
    clean = cell("m", "clean", 1)
    short, long = cell("m", "short", 2, [clean]), cell("m", "long", 10, [clean])
    last = cell("m", "last", 5, [clean, short])
    found = urgencies([clean, short, long, last], lambda c: c.stop)
    assert [found[c.id] for c in (clean, short, long, last)] == [11, 7, 10, 5]


def test_big_cells_first_and_the_model_that_is_held():
    small, big, other = cell("m", "small", 1), cell("m", "big", 5), cell("n", "huge", 50)
    urgency = urgencies([small, big, other], lambda c: c.stop)
    assert pick([small, big, other], "m", Counter(), urgency) is big
    assert pick([small, big, other], None, Counter(), urgency) is other
    assert pick([small, big, other], "k", Counter(n=20), urgency) is big  # 50 / 21 < 6: twenty are at n already
    assert pick([], "m", Counter(), urgency) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 6), st.randoms())
def test_every_cell_is_run_once_and_few_models_are_loaded_twice(models, workers, chance):
    """A simulation with any durations: the loads are no more than models and workers together."""
    cells = [cell(f"m{model}", f"a{place}") for place, model in enumerate(models)]
    urgency = urgencies(cells, lambda _: 1.0)
    held, left, loads, done = [None] * workers, list(cells), 0, []
    while left:
        worker = chance.randrange(workers)
        crowd = Counter(model for place, model in enumerate(held) if model is not None and place != worker)
        chosen = pick(left, held[worker], crowd, urgency)
        loads += held[worker] != chosen.model
        held[worker] = chosen.model
        left.remove(chosen)
        done.append(chosen.id)
    assert sorted(done) == sorted(c.id for c in cells)
    assert loads <= len(set(models)) + workers - 1 + len(set(models)) * (workers > 1) * workers
