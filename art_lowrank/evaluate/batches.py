"""Work done batch by batch; a batch that does not fit into memory is halved."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

Part = TypeVar("Part")
FEW = 1.125  # a batch may be so much larger to be the last


class Size(NamedTuple):
    """Images a batch, and how often they had to be halved."""

    images: int
    halved: int = 0


def batched(work: Callable[[int, int], Part], n: int, size: Size) -> tuple[list[Part], Size]:
    """`work(start, stop)` over n images; out of memory halves the batch and goes on where it was.

    A last few join the batch before: alone they would cost almost as much as many.
    """
    parts: list[Part] = []
    start = 0
    while start < n:
        stop = n if n - start <= size.images * FEW else start + size.images
        part = _attempt(work, start, stop)
        if part is None:
            size = Size(max(1, (stop - start) // 2), size.halved + 1)
            continue
        parts.append(part)
        start = stop
    return parts, size


def _attempt(work: Callable[[int, int], Part], start: int, stop: int) -> Part | None:
    """The part, or None where memory ran out; by then everything the attempt held is free again."""
    try:
        return work(start, stop)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or stop - start == 1:
            raise
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no more memory to give."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in ("out of memory", "can't allocate memory"))
