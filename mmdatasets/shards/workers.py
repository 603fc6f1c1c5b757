"""Writes shards in several processes, and ends with a clear error whatever becomes of one of them.

On Linux the processes are forked, as those of `datasets.map` are: they start at once, share the pages of the source,
and know the classes of a notebook. (A fresh interpreter would import torch and transformers for 5 to 10 seconds each.)
What a fork lacks are the parent's threads. So the plugin is pickled and unpickled, which builds the processor anew and
has torch use one thread: waiting for OpenMP threads that are not there would never end. Elsewhere fresh interpreters
are started.

Each process has a pipe of its own to the parent, and no lock is shared: one that is killed takes nothing with it that
others wait for.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.errors import MMDatasetsError
from mmdatasets.orphans import end_daemon_with_parent
from mmdatasets.shards.layout import Shard

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from datasets import Dataset

    from mmdatasets.shards.writer import ShardWriter

_GRACE_S = 2.0
"""How long a process may take to end by itself."""


class WorkerError(MMDatasetsError):
    """A process that wrote shards ended without a word, or with an error that is not of this package."""


class _ParentIsGoneError(BaseException):
    """Nobody waits for the result; not an `Exception`, so that nothing takes it for an error of a row."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong in a worker."""

    error: MMDatasetsError
    trace: str


_Message: TypeAlias = "int | Shard | _Failure"
"""What a worker says: rows that it mapped, a shard that it finished, an error."""


def _rows_of(shard: Shard) -> str:
    return f"{shard.start} to {shard.stop - 1}"


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    shard: Shard | None = None

    def give(self, queue: deque[Shard]) -> None:
        """Has it write the next shard, or end."""
        self.shard = queue.popleft() if queue else None
        try:
            self.connection.send(self.shard)
        except OSError as error:
            raise self.death() from error

    def death(self) -> WorkerError:
        """What is to be said of its death."""
        self.process.join(_GRACE_S)
        code = self.process.exitcode
        how = f"exited with the status {code}"
        if code is not None and code < 0:
            known = {number.value: number.name for number in signal.Signals}
            how = f"was killed by the signal {known.get(-code, -code)}"
        doing = "" if self.shard is None else f" while it wrote {self.shard.name}"
        rows = None if self.shard is None else _rows_of(self.shard)
        hint = "; memory ran out, perhaps: try a lower num_proc or batch_size" if code == -signal.SIGKILL else ""
        return WorkerError(
            f"a worker process {how}{doing}{hint}. What is finished stays, and the same command goes on from there",
            row=rows,
        )


def write_shards(
    writer: ShardWriter, dataset: Dataset, shards: Sequence[Shard], num_proc: int, on_rows: Callable[[int], object]
) -> None:
    """Writes shards, in this process or in several others.

    Args:
        writer: Writes one.
        dataset: The source.
        shards: What is to be written.
        num_proc: How many processes write; this one does with 1.
        on_rows: Called with numbers of rows as they are mapped.

    Raises:
        MMDatasetsError: The first error of any process; the others are ended. Names the row, as far as it is known.
    """
    if num_proc == 1 or len(shards) < 2:
        for shard in shards:
            writer.write(dataset, shard, on_rows)
        return
    queue = deque(shards)
    with _started(writer, dataset, min(num_proc, len(shards))) as workers:
        for worker in workers:
            worker.give(queue)
        while busy := [worker for worker in workers if worker.shard is not None]:
            ready = wait([source for worker in busy for source in (worker.connection, worker.process.sentinel)])
            for worker in busy:
                if worker.connection in ready:
                    _receive(worker, queue, on_rows)
                elif worker.process.sentinel in ready and not worker.connection.poll():
                    raise worker.death()


def _receive(worker: _Worker, queue: deque[Shard], on_rows: Callable[[int], object]) -> None:
    try:
        message: _Message = worker.connection.recv()
    except (EOFError, OSError) as error:
        raise worker.death() from error
    if isinstance(message, int):
        on_rows(message)
    elif isinstance(message, Shard):
        worker.give(queue)
    else:
        message.error.add_note(f"In a worker process:\n{message.trace}")
        raise message.error


@contextmanager
def _started(writer: ShardWriter, dataset: Dataset, number: int) -> Iterator[list[_Worker]]:
    # Of a fresh interpreter's pipes no other has a copy.
    forks = sys.platform == "linux"
    context = multiprocessing.get_context("fork") if forks else multiprocessing.get_context("spawn")
    payload = pickle.dumps(writer)
    workers: list[_Worker] = []
    try:
        for _ in range(number):
            ours, theirs = context.Pipe()
            inherited = [*(worker.connection for worker in workers), ours] if forks else []
            process = context.Process(target=_work, args=(theirs, inherited, payload, dataset), daemon=True)
            with warnings.catch_warnings():
                # Of what other threads hold the worker needs nothing, see above.
                warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
                process.start()
            theirs.close()  # so that only the worker has it, and its end is seen
            workers.append(_Worker(process, ours))
        yield workers
        for worker in workers:
            worker.process.join(_GRACE_S)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_GRACE_S)
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


def _work(connection: Connection, inherited: Sequence[Connection], payload: bytes, dataset: Dataset) -> None:
    """What a worker does: it writes the shards that it is given, until there is none, or nobody who asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_daemon_with_parent()  # also in the middle of a batch
    for other in inherited:
        other.close()
    shard: Shard | None = None
    try:
        writer: ShardWriter = pickle.loads(payload)
        while (shard := _next(connection)) is not None:
            writer.write(dataset, shard, lambda rows: _say(connection, rows))
            _say(connection, shard)
    except _ParentIsGoneError:
        return
    except BaseException as error:
        rows = None if shard is None else _rows_of(shard)
        known = (
            error if isinstance(error, MMDatasetsError) else WorkerError(f"{type(error).__name__}: {error}", row=rows)
        )
        with suppress(_ParentIsGoneError):
            _say(connection, _Failure(known, traceback.format_exc()))


def _next(connection: Connection) -> Shard | None:
    try:
        shard: Shard | None = connection.recv()
    except (EOFError, OSError) as error:
        raise _ParentIsGoneError from error
    return shard


def _say(connection: Connection, message: _Message) -> None:
    try:
        connection.send(message)
    except OSError as error:
        raise _ParentIsGoneError from error
