"""Processes that end with the one they work for, also where that is killed and can no longer end them."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time

_PERIOD_S = 0.5
_MULTIPROCESSING = ("multiprocessing.process", "multiprocess.process")  # `datasets` has the second


def end_with_parent(parent_id: int) -> None:
    """Has this process end within a second of its parent, whatever it is doing then.

    Elsewhere than on POSIX systems, where a process is not told that its parent ended, nothing happens.

    Args:
        parent_id: Number of the process that started this one; it may have ended by now.
    """
    if os.name == "posix":
        _watch(os.getpid(), parent_id)


def end_daemon_with_parent() -> None:
    """The same where this process is a daemonic one of `multiprocessing` or `multiprocess`, as those of a pool are.

    Such a process is not to outlive the one that started it, which sees to that itself, unless it is killed.
    """
    for name in _MULTIPROCESSING:
        module = sys.modules.get(name)
        if module is not None and module.current_process().daemon:
            end_with_parent(module.parent_process().pid)


@functools.cache
def _watch(process_id: int, parent_id: int) -> threading.Thread:
    """The one thread that watches, in each process its own."""
    thread = threading.Thread(target=_wait, args=(parent_id,), name="mmdatasets-parent", daemon=True)
    thread.start()
    return thread


def _wait(parent_id: int) -> None:
    while os.getppid() == parent_id:
        time.sleep(_PERIOD_S)
    os._exit(1)
