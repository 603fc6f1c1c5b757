"""Processes that are killed in the middle of their work: who waits for them is told, and never waits for ever."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import signal
import sys
import time
from multiprocessing.connection import Connection

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.media.bounded import _helper_of
from mmdatasets.media.image import decode_image
from mmdatasets.testing.processors import build_processor
from tests.shards.test_workers import PoisonedPlugin

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

PATIENCE_S = 30


@pytest.fixture(autouse=True)
def _alarm():
    """What hangs here would hang for ever."""
    signal.alarm(4 * PATIENCE_S)
    yield
    signal.alarm(0)


@pytest.fixture
def source(image_file) -> datasets.Dataset:
    chat = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Yes."}]
    return datasets.Dataset.from_list([{"messages": chat, "images": [str(image_file(56, 56))]} for _ in range(200)])


def kill_a_worker(loader: DataLoader, answers: Connection) -> None:
    """Says what a training sees whose worker is killed in the middle of an epoch.

    In a process of its own: torch raises the error in a handler of signals, wherever the process is just then.
    """
    seen = "the epoch went on to its end"
    try:
        batches = iter(loader)
        for _ in range(5):
            next(batches)
        os.kill(batches._workers[0].pid, signal.SIGKILL)
        for _ in batches:
            pass
    except BaseException as error:
        seen = f"{type(error).__name__}: {error}"
    answers.send(seen)
    os._exit(0)


def test_a_loader_says_that_its_worker_was_killed(source) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), on_error="skip")
    mapped = source.map(plugin.transform, batched=True)
    loader = DataLoader(mapped, batch_size=4, num_workers=2, collate_fn=plugin.collator())
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe(duplex=False)
    process = context.Process(target=kill_a_worker, args=(loader, other))
    process.start()
    other.close()
    try:
        assert mine.poll(PATIENCE_S), "it hangs"
        seen = mine.recv()
        # Where the parent was just taking a batch over from the worker, torch passes on what the connection says.
        assert re.match(r"RuntimeError: DataLoader worker .*(killed by signal: Killed|exited unexpectedly)", seen) or (
            seen.startswith(("ConnectionResetError", "ConnectionRefusedError", "EOFError", "FileNotFoundError"))
        ), seen
    finally:
        process.kill()
        process.join()
        mine.close()
    assert sum(len(batch["input_ids"]) for batch in loader) == 200  # the next epoch is whole


def test_a_map_says_that_one_of_its_processes_was_killed(source) -> None:
    plugin = PoisonedPlugin(processor=build_processor("qwen2_vl"), poison="kill", on_error="skip")
    settings = {"batched": True, "with_indices": True, "batch_size": 4, "features": plugin.features(source.features)}
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="subprocesses has abruptly died during map operation"):
        source.map(plugin.transform, num_proc=2, **settings)
    assert time.monotonic() - start < PATIENCE_S
    harmless = dataclasses.replace(plugin, poison="")
    assert len(source.map(harmless.transform, num_proc=2, **settings)) == 200


@pytest.mark.slow  # two processes that import torch
def test_a_decoding_process_that_is_killed_is_replaced(image_file) -> None:
    path, options = image_file(64, 64), MediaOptions(decode_timeout_s=60)
    expected = decode_image(path, MediaOptions())
    decode_image(path, options)
    process = _helper_of(os.getpid())._process
    os.kill(process.pid, signal.SIGKILL)  # while it waits for the next item, as the system does when memory is short
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert torch.equal(decode_image(path, options), expected)
    assert _helper_of(os.getpid())._process.pid != process.pid
