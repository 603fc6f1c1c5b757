"""Runs the command that the package installs, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

COMMAND = Path(sys.executable).with_name("mmdatasets")
REPOSITORY = Path(__file__).parents[2]


def run_installed(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs it with some arguments; nothing of it is kept but what it writes to `cwd`."""
    own = {"PYTHONPATH": str(REPOSITORY), "HF_DATASETS_CACHE": str(cwd / "hf-cache"), "COLUMNS": "100"}
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **own, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
