"""Starts processes as `torchrun` would, forked from one that has imported all: `launch.py COUNTS SCRIPT ARGUMENTS...`.

As many as the counts say, one group after the other ("3,2"). If one fails, all are killed, and this process with them.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
import warnings

import accelerate  # noqa: F401


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(count: int, rank: int, port: int, script: str, arguments: list[str]) -> int:
    """The number of a process that runs the script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is multi-threaded, use of fork")
        process = os.fork()
    if process:
        return process
    said = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in said.items()}, MASTER_ADDR="127.0.0.1")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    sys.exit()


def main(counts: str, script: str, *arguments: str) -> None:
    runpy.run_path(script)  # for what it imports, which the processes need not
    for count in map(int, counts.split(",")):
        port = free_port()
        running = {started(count, rank, port, script, list(arguments)) for rank in range(count)}
        while running:
            process, status = os.wait()
            running.remove(process)
            if status:
                os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
