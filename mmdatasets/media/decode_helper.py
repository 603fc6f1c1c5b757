"""The process that reads media for another one, which may end it at any time; see `mmdatasets.media.bounded`.

It ends by itself when the other one is gone: at the end of its input, whatever it is doing then, and, should a decoder
hold the interpreter itself, a few seconds after the time that it was given.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

import torch

from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.remote import remote_version
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.media.wire import Found, read_message, write_error, write_found

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

READY = b"R"
_GRACE_S = 5.0
_WORK: dict[str, Callable[..., Found]] = {
    "remote_version": remote_version,
    "probe_image": probe_image,
    "probe_video": probe_video,
    "probe_audio": probe_audio,
    "decode_image": decode_image,
    "decode_frames": decode_frames,
    "decode_audio": decode_audio,
}


def main() -> None:
    """Answers requests on standard input, one by one, on what was standard output at the start."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    requests: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    # Where the other process ended before it took the answer, nobody is left to be told.
    with open(os.devnull, "w") as nowhere, contextlib.suppress(BrokenPipeError):  # noqa: PTH123
        answers.write(READY)
        answers.flush()
        while True:
            name, timeout_s, memory, args, kwargs = pickle.loads(requests.get())
            _limit_memory(memory)
            faulthandler.dump_traceback_later(timeout_s + _GRACE_S, exit=True, file=nowhere)
            _answer(answers, name, args, kwargs)
            faulthandler.cancel_dump_traceback_later()


def _limit_memory(num_bytes: int | None) -> None:
    """Has allocations fail beyond so many bytes, those of decoders too."""
    if resource is None:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = resource.RLIM_INFINITY if num_bytes is None else num_bytes
    if hard != resource.RLIM_INFINITY:
        wanted = hard if wanted == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def _listen(file: BinaryIO, requests: queue.SimpleQueue[bytearray]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(read_message(file))
    os._exit(0)


def _answer(answers: BinaryIO, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    try:
        found = _WORK[name](*args, **kwargs)
    except Exception as error:  # whatever it is, the other process raises it
        write_error(answers, error)
    else:
        write_found(answers, found)
