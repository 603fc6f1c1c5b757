"""Processes that end with the one they work for, also where that is killed and can no longer end them."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable

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
        if module is None or not module.current_process().daemon or os.name != "posix":
            continue
        parent = module.parent_process()
        if parent.pid == os.getppid():
            end_with_parent(parent.pid)
        else:  # another process forked this one on its behalf (`forkserver`)
            _watch(os.getpid(), parent.pid, parent.join)


@functools.cache
def _watch(process_id: int, parent_id: int, wait: Callable[[], object] | None = None) -> threading.Thread:
    """The one thread that watches, in each process its own."""
    target = functools.partial(_end_after, wait or functools.partial(_wait, parent_id))
    thread = threading.Thread(target=target, name="mmdatasets-parent", daemon=True)
    thread.start()
    return thread


def _wait(parent_id: int) -> None:
    while os.getppid() == parent_id:
        time.sleep(_PERIOD_S)


def _end_after(wait: Callable[[], object]) -> None:
    wait()
    os._exit(1)
