"""Where the randomness of training comes from: numbers of steps, and noise that follows an image wherever it is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

STRIDE = 1_000_003  # between the numbers of two epochs
WORD = 2**64
BLOCK = 1 << 16  # numbers a processor's cache holds while they are hashed


def step_number(seed: int, epoch: int, step: int) -> int:
    """A different number for every step of every epoch."""
    return ((seed % 2**20) * STRIDE + epoch) * STRIDE + step


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """The global random states as a function of seed and epoch; then as they were."""
    with drawn_from(step_number(seed, epoch, 0)):
        yield


@contextmanager
def drawn_from(start: int) -> Iterator[None]:
    """The global random states (torch's, numpy's, Python's) follow from one number; then they are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(start)
        np.random.seed(start % 2**32)
        random.seed(start)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def uniform(indices: Tensor, shape: tuple[int, ...], number: int, draw: int, like: Tensor) -> Tensor:
    """Numbers in (-1, 1), a row of `shape` an index, from seed and epoch of `number`, draw, index and place in the row.

    They are counters, hashed: the same on every device, in every batch, and in whichever process has the image.
    """
    key = _word(number // STRIDE, draw)
    mixed = _scrambled(indices.to(like.device, torch.int64) * -7046029254386353131 + key)  # splitmix64's odd constant
    low, high = mixed.int().unsqueeze(1), (mixed >> 32).int().unsqueeze(1)
    places = torch.arange(math.prod(shape), dtype=torch.int32, device=like.device)
    found = torch.empty(len(indices), len(places), device=like.device)
    rows = max(1, BLOCK // max(1, len(places))) if like.device.type == "cpu" else max(1, len(indices))
    for start in range(0, len(indices), rows):
        part = slice(start, start + rows)
        found[part] = _hashed(places + low[part], high[part])
    return found.reshape(len(indices), *shape).to(like)


def normal(indices: Tensor, shape: tuple[int, ...], number: int, draw: int, like: Tensor) -> Tensor:
    """The same with standard normal numbers."""
    even = uniform(indices, shape, number, draw, like.new_empty(0, dtype=torch.float32))
    return (torch.erfinv(even) * math.sqrt(2)).to(like)


def _word(*numbers: int) -> int:
    """Whole numbers as one of 64 bits with a sign, by splitmix64."""
    word = 0
    for number in numbers:
        word = (word + number + 1) * 0x9E3779B97F4A7C15 % WORD
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
        word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
        word ^= word >> 31
    return word - WORD if word >= WORD // 2 else word


def _scrambled(words: Tensor) -> Tensor:
    """splitmix64's last steps; products wrap around, and masks keep signs out of the shifts."""
    words = (words ^ words >> 30 & (1 << 34) - 1) * -4658895280553007687
    words = (words ^ words >> 27 & (1 << 37) - 1) * -7723592293110705685
    return words ^ words >> 31 & (1 << 33) - 1


def _hashed(words: Tensor, key: Tensor) -> Tensor:
    """32 bits with a key in between, in place, and their upper 24 as a number in (-1, 1)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        words ^= (words >> shift).bitwise_and_((1 << 32 - shift) - 1)
        words *= factor
        words ^= key
    words ^= (words >> 16).bitwise_and_(0xFFFF)
    return (words >> 8).float().add_(0.5).mul_(2**-23)
