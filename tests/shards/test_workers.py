"""Processes that write shards: none hangs, and what goes wrong in one is told."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
from functools import partial

import pytest
import torch
from datasets import Dataset, load_dataset

from mmdatasets import MediaOptions, auto_plugin, preprocess
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.shards.workers import WorkerError
from mmdatasets.testing import build_processor
from mmdatasets.testing.media import make_image
from tests.shards.runs import PATIENCE_S, Session, contents, make_plugin, write_chats


@dataclasses.dataclass(eq=False)
class PoisonedPlugin(Qwen2VLPlugin):
    """Something goes wrong when it meets row 7."""

    _: dataclasses.KW_ONLY
    poison: str = ""

    def transform(self, batch, indices=None):
        if 7 in indices:
            match self.poison:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    os._exit(3)
                case "bug":
                    raise LookupError("a bug")
                case "system exit":
                    raise SystemExit("bye")
                case "no table":
                    return {"input_ids": [[1]]}
        return super().transform(batch, indices)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        ("kill", r"row 6 to 7: a worker process was killed by the signal SIGKILL while it wrote data/train-00003-of"),
        ("exit", r"row 6 to 7: a worker process exited with the status 3 while it wrote data/train-00003-of"),
        ("bug", "row 6 to 7: LookupError: a bug"),
        ("system exit", "row 6 to 7: SystemExit: bye"),
    ],
)
def test_what_ends_a_worker_is_told_and_the_run_goes_on_later(tmp_path, poison, message):
    source = write_chats(tmp_path / "source", 20)
    plugin = PoisonedPlugin(processor=build_processor("qwen2_vl"), poison=poison)
    with pytest.raises(WorkerError, match=message):
        preprocess(source, plugin, tmp_path / "out", rows_per_shard=2, num_proc=2)
    assert not [name for name in contents(tmp_path / "out") if ".part" in name or name.endswith(".lock")]
    harmless = dataclasses.replace(plugin, poison="")
    report = preprocess(source, harmless, tmp_path / "out", rows_per_shard=2, num_proc=2, overwrite=True)
    assert report.counts.rows_written == 20


def test_a_transform_that_makes_something_else_is_refused(tmp_path):
    plugin = PoisonedPlugin(processor=build_processor("qwen2_vl"), poison="no table")
    with pytest.raises(Exception, match=r"row 6: PoisonedPlugin\.transform must return an Arrow table"):
        preprocess(write_chats(tmp_path / "source", 10), plugin, tmp_path / "out", rows_per_shard=2)


@pytest.fixture
def several_threads():
    """As many threads for torch as a user's process has, and an alarm: what hangs here would hang for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    signal.alarm(PATIENCE_S)  # whose default is to end the process
    yield
    signal.alarm(0)
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["qwen2_vl", "llama4"])  # of Llama 4 the dry run computes with real tensors
def test_a_processor_that_ran_before_the_fork_does_not_hang_the_workers(tmp_path, several_threads, family):
    plugin = auto_plugin(build_processor(family))
    source = Dataset.from_list(rows(12))
    mapped = source.select([0, 1]).map(plugin.transform, batched=True)
    plugin.collator()(mapped.to_list())
    report = preprocess(source, plugin, tmp_path / "out", rows_per_shard=3, num_proc=2)
    assert report.counts.rows_written == 12


def rows(count):
    picture = make_image(300, 200, seed=0)
    chat = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Yes."}]
    return [{"messages": chat, "images": [picture]} for _ in range(count)]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, num_proc):
    """The limit on a file's size is what the system says in the same way and place."""
    path = write_chats(tmp_path / "source", 300)
    plugin = make_plugin(options=MediaOptions(media_root=str(path.parent)))
    source = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    settings = {"rows_per_shard": 100, "num_proc": num_proc, "embed_media": True}
    assert plugin.settings_digest  # which saves the processor
    session = Session(source, plugin, tmp_path / "out", before=partial(limit_files, 200_000), **settings)
    assert "cannot write the shard: " in (outcome := session.outcome())
    assert "the same command goes on from there" in outcome
    assert sorted(contents(tmp_path / "out")) == ["preprocess-train.json"]
    preprocess(source, plugin, tmp_path / "out", progress=False, **settings)
    preprocess(source, plugin, tmp_path / "whole", progress=False, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert min(path.stat().st_size for path in (tmp_path / "out").glob("data/*")) > 200_000
    assert len(load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))) == 300


def limit_files(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
