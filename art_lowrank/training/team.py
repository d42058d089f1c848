"""Several processes that train one net: what the loop asks of them, whoever started them.

Every process walks through the same batches and takes its share of each. Gradients are added up once a step, after the
backward pass; the module itself knows nothing of it, so the gradients of attacks stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
KINDS = (OSError, ArithmeticError, ValueError, TypeError)  # of errors that keep their kind on their way to others


class Team(Protocol):
    """Processes that can talk to each other. Every call is made by all of them, in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same to the last bit on each."""

    def lead(self, values: Tensor) -> Tensor:
        """The first process's numbers."""

    def told(self, value: Any) -> Any:
        """What the first process gives; the others' is not looked at."""

    def gathered(self, value: Any) -> list[Any]:
        """What every process gives, in the order of their numbers."""


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def total(self, values: Tensor) -> Tensor:
        return values

    def lead(self, values: Tensor) -> Tensor:
        return values

    def told(self, value: Any) -> Any:
        return value

    def gathered(self, value: Any) -> list[Any]:
        return [value]


ALONE = Alone()


class Outcome(NamedTuple):
    """What an action gave, or what stopped it; goes from process to process, so it holds no exception."""

    value: Any = None
    kind: int | None = None  # of the error, a place in KINDS
    words: str | None = None

    def open(self) -> Any:
        """The value, or the error."""
        if self.words is None:
            return self.value
        raise (RuntimeError if self.kind is None else KINDS[self.kind])(self.words)


def first(team: Team, act: Callable[[], T]) -> T:
    """What the first process finds, told to all; so is its error. The others wait."""
    if team.size == 1:
        return act()
    mine, error = _tried(act) if team.rank == 0 else (Outcome(), None)
    told = team.told(mine)
    if error is not None:
        raise error
    found: T = told.open()
    return found


def together(team: Team, act: Callable[[], T]) -> list[T]:
    """What every process finds, told to all; where one of them fails, all stop with its words."""
    if team.size == 1:
        return [act()]
    mine, error = _tried(act)
    outcomes = team.gathered(mine)
    if error is not None:
        raise error
    return [outcome.open() for outcome in outcomes]


def in_turn(team: Team, act: Callable[[], T]) -> T:
    """What an action gives here, after the first process has done it: what that one downloads the others find."""
    mine: list[T] = []
    first(team, lambda: mine.append(act()))
    return mine[0] if mine else act()


def check_same(team: Team, what: str, given: dict[str, Any]) -> None:
    """Refuse to train one net on two sets of data, or by two recipes."""
    for rank, other in enumerate(team.gathered(given)):
        for name in sorted({*given, *other}):
            if (theirs := other.get(name)) != given.get(name):
                raise ValueError(
                    f"{what} differ: {name}={theirs!r} in process {rank}, {given.get(name)!r} in process {team.rank}; "
                    "start all with the same data and settings, and loaders that do not divide the data themselves"
                )


def share_of(team: Team, n: int) -> Tensor | None:
    """Which of a batch's n images this process takes; None for all.

    Few images go to fewer processes, two each at least: batch normalisation cannot be trained on one.
    """
    if team.size == 1:
        return None
    takers = max(1, min(team.size, n // 2))
    return torch.arange(team.rank, n, takers) if team.rank < takers else torch.arange(0)


def added(team: Team, parameters: Iterable[nn.Parameter], act: Callable[[], Tensor]) -> Tensor:
    """What `act`, a backward pass, gives here and elsewhere, added up; so are the gradients it leaves behind.

    One message a call, whatever the attack before did. If a process fails, all stop.
    """
    if team.size == 1:
        return act()
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    error = None
    try:
        mine = act()
    except Exception as found:
        error, mine = found, None
    if not learning:
        raise ValueError("the optimizer holds no parameter that requires a gradient; there is nothing to train")
    sums = team.total(_packed(learning, mine))
    if error is not None:
        raise error
    if float(sums[-1]):
        raise ConnectionAbortedError(
            f"process {team.rank} stops because another one failed in this step; its own message says why"
        )
    return _unpacked(learning, sums)


def agree(team: Team, module: nn.Module) -> None:
    """The first process's parameters and buffers for all: the statistics of batch normalisation differ by share."""
    if team.size == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    for tensors in kinds.values():
        flat = team.lead(torch.cat([tensor.flatten() for tensor in tensors]))
        _spread(flat, tensors)


def _packed(parameters: Sequence[nn.Parameter], mine: Tensor | None) -> Tensor:
    """One vector: gradients, zero where there is none; which there are; what `act` gave, two numbers; failures."""
    wide, device = torch.float32, parameters[0].device
    for parameter in parameters:
        wide = torch.promote_types(wide, parameter.dtype)
    gradients = [None if mine is None else parameter.grad for parameter in parameters]
    numbers = [float(gradient is not None) for gradient in gradients]
    given = torch.zeros(2, device=device, dtype=wide) if mine is None else mine.to(device, wide)
    return torch.cat(
        [
            parameter.new_zeros(parameter.numel(), dtype=wide) if gradient is None else gradient.flatten().to(wide)
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        + [torch.tensor(numbers, dtype=wide, device=device), given, given.new_tensor([float(mine is None)])]
    )


def _unpacked(parameters: Sequence[nn.Parameter], sums: Tensor) -> Tensor:
    """Put the gradients where they belong; a parameter for which no process has one gets none."""
    sizes = [parameter.numel() for parameter in parameters]
    *parts, there, _ = sums.split([*sizes, len(sizes), 3])
    for parameter, part, count in zip(parameters, parts, there.tolist(), strict=True):
        if count:
            whole = part.view(parameter.shape).to(parameter.dtype)
            parameter.grad = whole.clone() if parameter.grad is None else parameter.grad.copy_(whole)
    return sums[-3:-1]


@torch.no_grad()
def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """The numbers of one vector into tensors, in their order."""
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def _tried(act: Callable[[], Any]) -> tuple[Outcome, Exception | None]:
    try:
        return Outcome(act()), None
    except Exception as error:
        kind = next((place for place, known in enumerate(KINDS) if isinstance(error, known)), None)
        return Outcome(None, kind, str(error)), error
