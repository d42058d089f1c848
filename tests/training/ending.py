"""What is left of a team when its run is over: `ending.py FOLDER`, as one of several processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from art_lowrank.training.distributed import leaving, team_here


def threads():
    """Names of this process's threads, by what the system calls them."""
    return [Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task")]


def main(folder):
    with leaving(team_here()) as team:
        torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
        rank, during = team.rank, threads()
    (folder / f"during-{rank}").write_text("\n".join(during))
    (folder / f"after-{rank}").write_text("\n".join(threads()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
