"""Processes that `accelerate launch` or `torchrun` started, as a team; the only file that knows accelerate."""

from __future__ import annotations

import os
import warnings
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OMP_NUM_THREADS")  # accelerate sets it, and says so
        state = PartialState(cpu=_says("ACCELERATE_USE_CPU") or not torch.cuda.is_available(), timeout=PATIENCE)
    if not str(state.distributed_type).split(".")[-1].startswith("MULTI_"):
        raise ValueError(f"accelerate runs {state.distributed_type}; launch processes with a GPU or some CPU each")
    if int(state.num_processes) != size:
        raise ValueError(f"accelerate joined {state.num_processes} of {size} processes; launch them with one launcher")
    return Accelerated(state)


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
    """Two processes on one GPU would wait for each other."""
    if isinstance(team, Accelerated) and device.type == "cuda" and device != team.state.device:
        raise ValueError(
            f"the model is on {device}, this process has {team.state.device}; call "
            "torch.cuda.set_device(int(os.environ['LOCAL_RANK'])) before making it"
        )


def leave(team: Team) -> None:
    """The end of a run: without it NCCL complains."""
    if isinstance(team, Accelerated):
        team.state.destroy_process_group()


def _says(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
