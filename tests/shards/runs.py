"""Sources to preprocess, and runs in process groups of their own that can be killed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import time
import traceback
from pathlib import Path

import torch

from mmdatasets import MediaOptions, get_mm_plugin, preprocess
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.testing import build_processor
from mmdatasets.testing.media import write_image

PATIENCE_S = 60
FORK = multiprocessing.get_context("fork")


def write_chats(folder: Path, rows: int, images: int = 6) -> Path:
    """A JSONL file beside a folder with its images, to which its paths are relative; every 5th row has none."""
    (folder / "photos").mkdir(parents=True)
    for index in range(images):
        write_image(folder / "photos" / f"{index}.jpg", 56 + 28 * index, 84, seed=index)
    path = folder / "chat.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            count = 0 if row % 5 == 4 else 1 + row % 2
            question = "<image>" * count + f"What about number {row}?" + " Look closely." * (row % 7)
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"It is {row * row}."}]
            photos = [f"photos/{(row + item) % images}.jpg" for item in range(count)]
            file.write(json.dumps({"id": row, "messages": messages, "images": photos}) + "\n")
    return path


def make_plugin(**fields):
    """The plugin of an offline Qwen2-VL processor, which finds media where the data lies."""
    return get_mm_plugin("qwen2_vl", processor=build_processor("qwen2_vl"), **fields)


@dataclasses.dataclass(eq=False)
class SlowPlugin(Qwen2VLPlugin):
    """Takes its time for each batch."""

    _: dataclasses.KW_ONLY
    seconds: float = 0.05

    def transform(self, batch, indices=None):
        time.sleep(self.seconds)
        return super().transform(batch, indices)


def slow_plugin(seconds: float, **fields):
    return SlowPlugin(processor=build_processor("qwen2_vl"), options=MediaOptions(), seconds=seconds, **fields)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def identities(output: Path) -> dict[str, tuple[int, int]]:
    """The files, not what is in them: inode and time of change of each finished shard."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("data/*.parquet")}


class Session:
    """A call of `preprocess` in a process group of its own.

    The process is forked: a fresh interpreter would import for seconds, in which there is nothing to interrupt.
    """

    def __init__(self, *arguments, **settings) -> None:
        self._receiver, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=_run, args=(sender, arguments, settings))
        self.process.start()
        sender.close()
        while os.getpgid(self.process.pid) != self.process.pid:
            time.sleep(0.001)

    def kill_group(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def outcome(self) -> str:
        """What the call ended with; empty where it could not say."""
        self.process.join(PATIENCE_S)  # its answer is a line, which the pipe holds
        if self.process.exitcode is None:
            self.kill_group(signal.SIGKILL)
            raise AssertionError("the run hangs")
        try:
            return self._receiver.recv()
        except EOFError:
            return ""

    def processes(self) -> list[int]:
        """Those of the group that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.process.pid and fields[0] != "Z":
                found.append(int(path.name))
        return found

    def wait_for_end_of_group(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.processes():
            assert time.monotonic() < deadline, "processes are left"
            time.sleep(0.02)


def _run(sender, arguments, settings) -> None:
    os.setsid()
    torch.set_num_threads(1)  # those of the parent are not there; what the package does in its own processes
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        before = settings.pop("before", None)
        if before is not None:
            before()
        report = preprocess(*arguments, **{"progress": False, **settings})
        sender.send(f"{report.counts.rows_written} rows")
    except BaseException as error:
        sender.send("".join(traceback.format_exception_only(error)))
