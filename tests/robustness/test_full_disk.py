"""A disk that is full: what could not be written is told, and the same call goes on once there is room."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from datasets import load_dataset

from mmdatasets import MediaOptions, preprocess
from mmdatasets.errors import MMDatasetsError
from mmdatasets.planning.snapshot import ProcessorSnapshot
from mmdatasets.testing import build_processor
from mmdatasets.transforms.row_log import read_row_log
from tests.shards.runs import contents, make_plugin, write_chats

FULL = "No space left on device; make room there"


class SmallDisk:
    """A disk of 1 MiB, of which a file takes all but a few bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, room: int) -> None:
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                size = file.tell()
        os.truncate(self._filler, size - room)

    def make_room(self) -> None:
        self._filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no small disk can be mounted here, which takes the rights of root")
    yield SmallDisk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "source", 24)


def plugin_for(chats: Path, **fields):
    plugin = make_plugin(options=MediaOptions(media_root=str(chats.parent)), **fields)
    assert plugin.settings_digest  # which saves the processor
    return plugin


@pytest.mark.parametrize(
    ("room", "what", "settings"),
    [
        (0, "the output", {}),
        (16_384, "the shard", {"embed_media": True}),
        pytest.param(150_000, "the shard", {"materialise": True, "num_proc": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on(room, what, settings, disk, chats, tmp_path) -> None:
    disk.fill(room)
    plugin, output = plugin_for(chats), disk.folder / "out"
    settings = {"rows_per_shard": 4, "progress": False, **settings}
    with pytest.raises(
        MMDatasetsError, match=f"{output}.*: cannot write {what}: {FULL}; .*the same command .*goes on"
    ):
        preprocess(str(chats), plugin, output, **settings)
    assert not [name for name in contents(disk.folder) if ".part" in name or name.endswith(".lock")]
    disk.make_room()
    preprocess(str(chats), plugin, output, **settings)
    preprocess(str(chats), plugin, tmp_path / "whole", **settings)
    assert contents(output) == contents(tmp_path / "whole")


def test_the_log_of_rows(disk, chats, tmp_path) -> None:
    (chats.parent / "photos" / "0.jpg").unlink()
    source = load_dataset("json", data_files=str(chats), split="train", cache_dir=str(tmp_path / "cache"))
    log = disk.folder / "log"
    plugin = plugin_for(chats, on_error="quarantine", row_log=str(log))
    disk.fill(12_288)
    with pytest.raises(MMDatasetsError, match=f"{log}: cannot write the log of rows: {FULL}"):
        source.map(plugin.transform, batched=True, with_indices=True, batch_size=3)
    assert not [name for name in contents(log) if name.startswith(".")]
    disk.make_room()
    source.map(plugin.transform, batched=True, with_indices=True, batch_size=3)
    known = plugin_for(chats, on_error="quarantine", row_log=str(tmp_path / "log"))
    source.map(known.transform, batched=True, with_indices=True, batch_size=3)
    assert read_row_log(log).num_rows > 3
    assert read_row_log(log).equals(read_row_log(tmp_path / "log"))


def test_the_metadata_cache_is_done_without(disk, chats, tmp_path, caplog) -> None:
    cache = disk.folder / "cache"
    plugin = plugin_for(chats, metadata_cache=str(cache))
    disk.fill(0)
    settings = {"rows_per_shard": 12, "batch_size": 2, "progress": False}
    with caplog.at_level(logging.WARNING, "mmdatasets"):
        report = preprocess(str(chats), plugin, tmp_path / "out", **settings)
    assert report.counts.rows_written == 24
    [warning] = caplog.messages
    assert warning.startswith(f"the metadata cache cannot be written ({cache}), the run goes on without: [Errno 28]")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("room", [0, 8192])  # for the folder, for what tokenizers writes
def test_temporary_files_of_a_processor(room, disk, monkeypatch) -> None:
    processor = build_processor("qwen2_vl")
    snapshot = ProcessorSnapshot.of(processor)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    disk.fill(room)
    for step in (lambda: ProcessorSnapshot.of(processor), snapshot.restore):
        with pytest.raises(MMDatasetsError, match=rf"{disk.folder}: cannot write the processor's files: {FULL}; or"):
            step()
    assert [path.name for path in disk.folder.iterdir()] == ["filler"]
    disk.make_room()
    assert ProcessorSnapshot.of(snapshot.restore()).digest == snapshot.digest


@pytest.mark.slow  # every item is compared
def test_a_store_of_media(disk, chats, tmp_path) -> None:
    source = load_dataset("json", data_files=str(chats), split="train", cache_dir=str(tmp_path / "cache"))
    plugin, store = plugin_for(chats), disk.folder / "store"
    mapped = source.map(plugin.transform, batched=True)
    disk.fill(50_000)
    with pytest.raises(MMDatasetsError, match=rf"row \d+ of the batch.*{store}.*: cannot write media: {FULL}"):
        mapped.map(plugin.materialise, batched=True, batch_size=8, fn_kwargs={"store": str(store)})
    assert all(name.startswith("fil") or len(Path(name).stem) == 32 for name in contents(disk.folder))
    before = contents(store)
    disk.make_room()
    mapped.map(plugin.materialise, batched=True, batch_size=8, fn_kwargs={"store": str(store)})
    assert contents(store).items() >= before.items()
