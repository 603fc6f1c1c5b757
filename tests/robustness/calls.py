"""Calls in process groups of their own, as a shell starts commands, that can be told to stop."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import weakref
from pathlib import Path

import torch

from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from tests.shards.runs import FORK, PATIENCE_S, Session


@dataclasses.dataclass(eq=False)
class MarkingPlugin(Qwen2VLPlugin):
    """Leaves a file for each process that has mapped a batch, and another sleeps in the middle of the next one."""

    _: dataclasses.KW_ONLY
    marks: str = ""
    seconds: float = 0.0

    def transform(self, batch, indices=None):
        made = super().transform(batch, indices)
        Path(self.marks, str(os.getpid())).touch()
        time.sleep(self.seconds)
        return made


class Call(Session):
    """A function called in a forked process that leads a process group.

    Args:
        folder: Takes what it writes to standard error, and its temporary files.
        function: What is called. What it returns is the exit status.
        *arguments: Its arguments.
    """

    def __init__(self, folder: Path, function, *arguments) -> None:
        folder.mkdir(parents=True)
        # Sockets lie there too, whose paths may have some hundred characters.
        self.temporary, self._stderr = Path(tempfile.mkdtemp(prefix="stops-")), folder / "stderr.txt"
        weakref.finalize(self, shutil.rmtree, self.temporary, ignore_errors=True)
        self._receiver, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=_call, args=(sender, self, function, arguments))
        self.process.start()
        sender.close()
        while os.getpgid(self.process.pid) != self.process.pid:
            time.sleep(0.001)

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return self._stderr.read_text("utf-8")

    def wait_for(self, condition) -> None:
        """Waits until the work is going on."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.exitcode is None, self.outcome() + self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)

    def stop(self, number: int, *, group: bool = False) -> str:
        """Sends a signal, and returns what the call ended with; all its processes must end within 5 seconds.

        Twice as long is allowed, for machines that have other work.
        """
        start, all_processes = time.monotonic(), self.processes()
        os.killpg(self.process.pid, number) if group else os.kill(self.process.pid, number)
        outcome = self.outcome()
        self.wait_for_end_of_group(10 - (time.monotonic() - start))
        numbers = set(map(str, all_processes))
        shared = [path for path in Path("/dev/shm").iterdir() if numbers & set(path.name.split("_"))]
        assert not shared
        return outcome


def _call(sender, call: Call, function, arguments) -> None:
    os.setsid()
    torch.set_num_threads(1)  # those of the parent are not there
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = str(call.temporary)
    descriptor = os.open(call._stderr, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    try:
        sender.send(f"status {function(*arguments)}")
    except BaseException as error:
        sender.send("".join(traceback.format_exception_only(error)).strip())
