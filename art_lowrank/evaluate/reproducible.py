"""Randomness of other people's attacks as a function of numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def reproducible(*numbers: int) -> Iterator[None]:
    """The global random states (torch's, numpy's, Python's) follow from the numbers; then they are as they were."""
    start = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7])
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(start)
        np.random.seed(start % 2**32)
        random.seed(start)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
