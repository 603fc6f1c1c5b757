"""Reading media in bounded time: by a process of its own, which is ended when it takes too long.

A thread cannot be ended, and neither can a decoder that does not come back. So with `MediaOptions.decode_timeout_s`
each process that reads media has another one do it, which is started at the first item, kept for the next ones, and
killed and started anew where it is stuck. It is an ordinary program, not a `multiprocessing` child, which the workers
of a `DataLoader` may not have; a process that was forked starts its own.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

from mmdatasets.errors import MediaDecodeError, MediaLimitError, MediaTimeoutError, MMDatasetsError
from mmdatasets.media.source import describe_source
from mmdatasets.types import FramePlan, MediaPlan

if TYPE_CHECKING:
    from mmdatasets.media.wire import Found
    from mmdatasets.options import MediaOptions

_DYING_S = 5.0
_START_S = 300.0  # importing torch from a slow disk
# Ctrl-C is for the process that waits, which then ends this one.
_PROGRAM = """\
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from mmdatasets.media.decode_helper import main
main()
"""


def is_bounded(reference: object, options: MediaOptions) -> bool:
    """Whether an item is read by another process.

    It is where there is a `decode_timeout_s`, unless it lives in this process: file objects, PIL images, arrays.
    """
    return options.decode_timeout_s is not None and _can_travel(reference)


def _can_travel(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_can_travel, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_can_travel, value))
    plain = (str, bytes, bytearray, os.PathLike, bool, int, float, MediaPlan, FramePlan)
    return value is None or isinstance(value, plain)


def run_bounded(work: str, reference: object, *args: object, options: MediaOptions, **kwargs: object) -> Found:
    """Has another process read an item.

    Args:
        work: Name of what is to be called, `"decode_image"`, say.
        reference: The item.
        *args: Arguments between the reference and the options.
        options: How media is read, within which time too.
        **kwargs: Further arguments.

    Returns:
        What the same call in this process gives.

    Raises:
        MediaTimeoutError: If it takes longer. The other process is ended.
        MediaLimitError: If it takes more memory than `decode_memory_limit`.
        MediaDecodeError: If the decoder takes the other process down with it.
        Exception: What the same call in this process raises.
    """
    timeout_s = cast("float", options.decode_timeout_s)
    memory = options.decode_memory_limit
    kwargs["options"] = dataclasses.replace(options, decode_timeout_s=None, decode_memory_limit=None)
    request = pickle.dumps((work, timeout_s, memory, (reference, *args), kwargs), protocol=pickle.HIGHEST_PROTOCOL)
    source = describe_source(reference)
    try:
        return _helper_of(os.getpid()).ask(request, timeout_s, source)
    except MemoryError as error:
        if memory is None:
            raise
        raise MediaLimitError(
            f"reading it needs more memory than MediaOptions.decode_memory_limit = {memory:,} bytes; raise the limit "
            "or leave it out",
            source=source,
        ) from error


@functools.cache
def _helper_of(process_id: int) -> _Helper:
    return _Helper()


class _Helper:
    """The process that reads for this one, started at the first request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        atexit.register(self._end)

    def ask(self, request: bytes, timeout_s: float, source: str) -> Found:
        """Has a request answered; one at a time."""
        from mmdatasets.media.wire import read_answer, write_message

        with self._lock:
            process = self._running()
            try:
                with _Deadline(process, timeout_s) as deadline:
                    write_message(cast("BinaryIO", process.stdin), request)
                    answer = read_answer(cast("BinaryIO", process.stdout))
            except (EOFError, OSError) as error:
                ending = _ending_of(process)
                self._end()
                if deadline.is_over:
                    raise MediaTimeoutError(
                        f"it was not read and decoded within {timeout_s:g} s (MediaOptions.decode_timeout_s), and "
                        "the process that was at it was ended",
                        source=source,
                    ) from None
                raise MediaDecodeError(f"the decoder crashed: its process ended ({ending})", source=source) from error
            except BaseException:  # Ctrl-C: what else comes from the process answers no question
                self._end()
                raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _start()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or os.getpid() != self._owner:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                cast("BinaryIO", pipe).close()
        process.wait()


class _Deadline:
    """Kills a process that is at work for too long, which ends any wait for it."""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        self.is_over = False
        self._process = process
        self._is_done = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_done = True
        self._timer.cancel()

    def _expire(self) -> None:
        with self._lock:
            if not self._is_done:
                self.is_over = True
                self._process.kill()


def _start() -> subprocess.Popen[bytes]:
    """Starts a process and waits until it is ready, which no item's time is counted for."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise MMDatasetsError(f"decode_timeout_s: no process could be started that decodes: {error}") from error
    try:
        with _Deadline(process, _START_S):
            if cast("BinaryIO", process.stdout).read(1):
                return process
    except BaseException:  # Ctrl-C: it imports for seconds before it would see that nobody asks
        process.kill()
        process.wait()
        raise
    process.wait()
    raise MMDatasetsError(f"decode_timeout_s: the process that decodes did not start ({_ending_of(process)})")


def _ending_of(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, in words."""
    try:
        status = process.wait(timeout=_DYING_S)
    except subprocess.TimeoutExpired:
        return "it closed its output"
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
