"""Runs a script in two processes, and ends each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist


def run(worker: Path, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs a script in two processes. One that hangs is an error."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(worker),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        },
    )


def leave() -> None:
    """Ends a process whose work is done, without the interpreter's own end, in which threads of gloo may abort it.

    (At random, seen about once in twenty runs on busy cores: "terminate called without an active exception".)
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
