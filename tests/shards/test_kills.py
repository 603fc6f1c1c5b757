"""Runs that are killed, as whole process groups, and continued: the result is that of a run nobody disturbed."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import time

import pytest
from datasets import load_dataset

from mmdatasets import preprocess
from mmdatasets.errors import MMDatasetsError
from mmdatasets.shards.layout import finished_files
from tests.shards.runs import Session, contents, identities, make_plugin, slow_plugin, write_chats


def kill_and_continue(tmp_path, *, rows, kills, num_procs):
    """Kills runs over the same rows, each after some shards and a moment more, or while it starts; then lets one end.

    What is dropped is logged, and photos are embedded: everything that a run writes is compared.
    """
    source = write_chats(tmp_path / "source", rows)
    log = tmp_path / "log"
    plugin = slow_plugin(0.01, max_length=60, on_overflow="drop", row_log=str(log))
    settings = {"rows_per_shard": 3, "embed_media": True, "progress": False}
    report = preprocess(source, plugin, tmp_path / "whole", num_proc=2, **settings)
    assert 0 < report.counts.rows_written < rows
    expected = contents(tmp_path / "whole"), contents(log)
    shutil.rmtree(log)

    output, seen, chance = tmp_path / "killed", {}, random.Random(0)
    for number in range(kills):
        session = Session(source, plugin, output, num_proc=num_procs[number % len(num_procs)], **settings)
        more = chance.randrange(7)
        wait_for_shards(output, len(seen) + more)
        time.sleep(chance.uniform(0.0, 0.03 if more else 0.4))
        assert session.processes(), "the run was over before it was killed: it must have more shards"
        session.kill_group(signal.SIGKILL)
        assert session.outcome() == ""
        session.wait_for_end_of_group(5)
        now = identities(output)
        assert {name: now.get(name) for name in seen} == seen, "a finished shard was written again"
        assert all(contents(output)[f"data/{name}"] == expected[0][f"data/{name}"] for name in now.keys() - seen)
        seen = now

    again = preprocess(source, plugin, output, num_proc=num_procs[0], **settings)
    assert 0 < again.shards_written == report.num_shards - len(seen) < report.num_shards
    assert again.counts == report.counts
    now = identities(output)
    assert {name: now[name] for name in seen} == seen
    assert (contents(output), contents(log)) == expected


def test_killed_runs_are_continued(tmp_path):
    kill_and_continue(tmp_path, rows=90, kills=2, num_procs=[2, 1])


@pytest.mark.slow  # twenty kills
def test_twenty_kills_at_random_moments(tmp_path):
    kill_and_continue(tmp_path, rows=480, kills=20, num_procs=[2, 3, 1])


def test_what_is_damaged_or_lost_is_written_again(tmp_path):
    source, plugin = write_chats(tmp_path / "source", 12), make_plugin()
    preprocess(source, plugin, tmp_path / "out", rows_per_shard=3, progress=False)
    expected, before = contents(tmp_path / "out"), identities(tmp_path / "out")
    lost, cut, empty, kept = finished_files(tmp_path / "out", "train")
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-20])
    empty.write_bytes(b"")
    left = tmp_path / "out" / "data" / f".{lost.name}.0123abcd.part"
    left.write_bytes(b"half")
    report = preprocess(source, plugin, tmp_path / "out", rows_per_shard=3, progress=False)
    assert report.shards_written == 3
    assert contents(tmp_path / "out") == expected
    assert identities(tmp_path / "out")[kept.name] == before[kept.name]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_ctrl_c_ends_all_processes_soon(tmp_path, num_proc):
    source, plugin = write_chats(tmp_path / "source", 200), slow_plugin(0.2)
    session = Session(source, plugin, tmp_path / "out", rows_per_shard=2, num_proc=num_proc)
    wait_for_shards(tmp_path / "out", 1)
    assert len(session.processes()) == {1: 1, 2: 3}[num_proc]
    start = time.monotonic()
    session.kill_group(signal.SIGINT)
    assert session.outcome() == "KeyboardInterrupt\n"
    session.wait_for_end_of_group(10 - (time.monotonic() - start))
    assert not [name for name in contents(tmp_path / "out") if ".part" in name or name.endswith(".lock")]


def test_workers_whose_parent_is_killed_end(tmp_path):
    source, plugin = write_chats(tmp_path / "source", 200), slow_plugin(0.1)
    session = Session(source, plugin, tmp_path / "out", rows_per_shard=2, num_proc=3)
    wait_for_shards(tmp_path / "out", 1)
    session.process.kill()
    session.outcome()
    session.wait_for_end_of_group(5)


def test_a_second_run_on_the_same_output_says_so(tmp_path):
    source, plugin = write_chats(tmp_path / "source", 200), slow_plugin(0.1)
    session = Session(source, plugin, tmp_path / "out", rows_per_shard=2)
    wait_for_shards(tmp_path / "out", 1)
    with pytest.raises(MMDatasetsError, match="another run is writing the split 'train' of this output"):
        preprocess(source, plugin, tmp_path / "out", rows_per_shard=2, progress=False)
    # Another split of the same output is nobody's business.
    preprocess(source, make_plugin(), tmp_path / "out", split="test", progress=False)
    assert session.processes() == [session.process.pid]
    session.kill_group(signal.SIGKILL)
    session.outcome()
    # A lock ends with its process.
    preprocess(source, dataclasses.replace(plugin, seconds=0.0), tmp_path / "out", overwrite=True, progress=False)
    folder, cache = str(tmp_path / "out"), str(tmp_path / "cache")
    assert [len(load_dataset(folder, split=split, cache_dir=cache)) for split in ("train", "test")] == [200, 200]


def wait_for_shards(output, number):
    deadline = time.monotonic() + 30
    while len(finished_files(output, "train")) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)
