"""Processes that `accelerate launch` or `torchrun` started, as a team; the only file that knows accelerate."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from art_lowrank.training.precision import check_precision
from art_lowrank.training.team import ALONE, Team

PATIENCE = timedelta(hours=2)  # for the slowest process, which may write, download or measure while others wait
OTHERS = {  # environment variables of `accelerate launch` for what shards or wraps the model
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
PRECISION_NAMES = {"no": "float32", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Accelerated:
    """One of several processes; messages go through accelerate's process group (gloo, nccl, ...)."""

    state: Any  # accelerate.PartialState
    ours: bool = False  # begun here, not by the caller

    @property
    def rank(self) -> int:
        return int(self.state.process_index)

    @property
    def size(self) -> int:
        return int(self.state.num_processes)

    def total(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        found: Tensor = reduce(values.to(self.state.device), reduction="sum")
        return found.to(values.device)

    def lead(self, values: Tensor) -> Tensor:
        from accelerate.utils import broadcast

        found: Tensor = broadcast(values.to(self.state.device), from_process=0)
        return found.to(values.device)

    def told(self, value: Any) -> Any:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value if self.rank == 0 else None], from_process=0)[0]

    def gathered(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        found: list[Any] = gather_object([value])
        return found


def launched() -> int:
    """How many processes a launcher says there are."""
    text = os.environ.get("WORLD_SIZE", "1")
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"WORLD_SIZE is {text!r}; a launcher such as torchrun sets it to a whole number") from error


def team_here() -> Team:
    """The processes that were started together with this one; ALONE where no launcher started several.

    Under CUDA every process has a device of its own, which is the current one from here on.
    """
    if (size := launched()) <= 1:
        return ALONE
    for name, what in OTHERS.items():
        if _says(name):
            raise ValueError(f"{what} shards the model, whose low-rank factors must be whole; launch without it")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ValueError(
            f"{size} processes were launched, and accelerate is not installed; pip install 'art-lowrank[distributed]'"
        ) from error
    check_launched(size)
    import torch._dynamo  # by the first optimizer, it would keep the group: its threads could abort Python's end

    ours = not torch.distributed.is_initialized()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OMP_NUM_THREADS")  # accelerate sets it, and says so
        state = PartialState(cpu=_says("ACCELERATE_USE_CPU") or not torch.cuda.is_available(), timeout=PATIENCE)
    if not str(state.distributed_type).split(".")[-1].startswith("MULTI_"):
        raise ValueError(f"accelerate runs {state.distributed_type}; launch processes with a GPU or some CPU each")
    if int(state.num_processes) != size:
        raise ValueError(f"accelerate joined {state.num_processes} of {size} processes; launch them with one launcher")
    if ours:
        atexit.register(_end)
    return Accelerated(state, ours)


def _end() -> None:
    """Threads that still talk when Python ends would end it with an abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def alone() -> Team:
    """One process, by its own wish."""
    if (size := launched()) > 1:
        warnings.warn(
            f"{size} processes were launched, and each trains a net of its own; distributed=True trains one together",
            stacklevel=4,
        )
    return ALONE


def check_launched(size: int) -> None:
    """What a launcher tells its processes, and a device for each: without, they would wait for each other for hours."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ValueError(f"WORLD_SIZE is {size} and {name} is not set; start with torchrun or accelerate launch")
    rank, local = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK"))
    if not (rank.isdigit() and int(rank) < size):
        raise ValueError(f"RANK is {rank!r} of WORLD_SIZE {size}; it counts from 0")
    devices = torch.cuda.device_count()
    if devices and not _says("ACCELERATE_USE_CPU") and not (local.isdigit() and int(local) < devices):
        raise ValueError(f"LOCAL_RANK is {local!r}, this machine has {devices} GPUs; launch one process a GPU")


def precision_here(asked: str = "float32") -> str:
    """What is asked for; where that is the usual, what `accelerate launch --mixed_precision` says."""
    check_precision(asked)
    text = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if text not in PRECISION_NAMES:
        raise ValueError(f"accelerate launch says --mixed_precision {text}; give no, bf16 or fp16")
    given = PRECISION_NAMES[text]
    if "float32" in (asked, given):
        return given if asked == "float32" else asked
    if asked != given:
        raise ValueError(f"precision is {asked!r}, and accelerate launch says {text!r}; give one of them")
    return asked


def check_device(team: Team, device: torch.device) -> None:
    """The model is where this process's messages come from: two processes do not share a GPU."""
    if isinstance(team, Accelerated) and device.type == "cuda" and device != team.state.device:
        raise ValueError(
            f"the model is on {device}, this process has {team.state.device}; move it there before, for GPUs with "
            "torch.cuda.set_device(int(os.environ['LOCAL_RANK']))"
        )


def device_of(team: Team) -> torch.device:
    """Where this process's model belongs."""
    if isinstance(team, Accelerated):
        return torch.device(team.state.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def leaving(team: Team) -> Iterator[Team]:
    """The time of a run. At its end all wait for all, and what was begun for it is given back: NCCL would complain.

    After an error nobody waits: the others may not come.
    """
    try:
        yield team
        team.gathered(None)
    finally:
        if isinstance(team, Accelerated) and team.ours:
            team.state.destroy_process_group()
            type(team.state)._reset_state()  # else it would be taken for begun the next time


def _says(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
