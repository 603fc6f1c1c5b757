"""How a command ends that is told to stop: by Ctrl-C, or by SIGTERM, which schedulers and `kill` send."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Whatever ends its processes and removes its files for Ctrl-C does so for this, too."""


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Has SIGTERM end what is done within it as Ctrl-C does, in place of ending this process alone.

    Raises:
        Terminated: When it comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
