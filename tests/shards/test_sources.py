"""What may be preprocessed, and where its relative media paths start."""

from __future__ import annotations

import json
import os

import pytest
from datasets import Dataset, DatasetDict, load_dataset

from mmdatasets import MediaOptions, preprocess
from mmdatasets.errors import MediaError, MMDatasetsError
from mmdatasets.shards.sources import open_source_dataset
from tests.shards.runs import make_plugin, write_chats


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "source", 11)


@pytest.fixture
def dataset(chats, tmp_path):
    return load_dataset("json", data_files=str(chats), split="train", cache_dir=str(tmp_path / "cache"))


def convert(dataset, path):
    """Writes the rows in the format of a suffix; CSV has no lists, so a text stands for them."""
    match path.suffix:
        case ".parquet":
            dataset.to_parquet(path)
        case ".json":
            path.write_text(json.dumps(dataset.to_list()), "utf-8")
        case ".csv":
            texts = [f"{row['messages'][1]['content']}" for row in dataset]
            Dataset.from_dict({"text": texts}).to_csv(path)
        case ".arrow":
            dataset.save_to_disk(path.parent / "saved")
            (path.parent / "saved" / "data-00000-of-00001.arrow").rename(path)
        case _:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in dataset), "utf-8")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".parquet", ".csv", ".arrow"])
def test_every_format_and_its_paths(dataset, chats, tmp_path, suffix):
    path = chats.parent / f"da*ta[1]{suffix}"
    convert(dataset, path)
    opened = open_source_dataset(path, "train")
    assert opened.media_root == str(chats.parent)
    report = preprocess(str(path), make_plugin(), tmp_path / "out")
    assert report.counts.rows_written == 11
    assert (suffix == ".csv") != ("image" in report.counts.media)


def test_a_folder_of_files_and_its_splits(dataset, chats, tmp_path):
    folder = chats.parent
    for name, first, last in (("train-a", 0, 3), ("more", 3, 5), ("val", 5, 8), ("sub/test/x", 8, 11)):
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        convert(dataset.select(range(first, last)), path)
    chats.unlink()
    ids = {split: open_source_dataset(folder, split).dataset["id"][:] for split in ("train", "validation", "test")}
    assert ids == {"train": [3, 4, 0, 1, 2], "validation": [5, 6, 7], "test": [8, 9, 10]}
    report = preprocess(folder, make_plugin(), tmp_path / "out", split="test")
    assert report.counts.media["image"] > 0  # found beside the data, not in sub/test
    assert (tmp_path / "out" / "data" / "test-00000-of-00001.parquet").exists()
    with pytest.raises(MMDatasetsError, match="there is no split 'dev', only 'train', 'test', 'validation'"):
        preprocess(folder, make_plugin(), tmp_path / "out", split="dev")


def test_what_save_to_disk_wrote(dataset, chats, tmp_path):
    dataset.save_to_disk(chats.parent / "one")
    DatasetDict(train=dataset, test=dataset.select([0, 1])).save_to_disk(chats.parent / "both")
    options = MediaOptions(media_root=str(chats.parent))
    one = preprocess(chats.parent / "one", make_plugin(options=options), tmp_path / "one")
    test = preprocess(chats.parent / "both", make_plugin(options=options), tmp_path / "both", split="test")
    assert (one.counts.rows_written, test.counts.rows_written) == (11, 2)
    with pytest.raises(MMDatasetsError, match="no split 'dev', only 'train', 'test'"):
        preprocess(chats.parent / "both", make_plugin(), tmp_path / "dev", split="dev")


def test_relative_paths_start_from_the_folder_of_the_data_unless_the_plugin_has_one(dataset, chats, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(MediaError, match="elsewhere/photos"):
        preprocess(chats, make_plugin(options=MediaOptions(media_root=str(tmp_path / "elsewhere"))), tmp_path / "a")
    with pytest.raises(MediaError, match=r"\(photos/0\.jpg\)"):  # a dataset has no folder
        preprocess(dataset, make_plugin(), tmp_path / "b")


def test_a_relative_media_root_is_that_of_the_run(chats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preprocess(chats, make_plugin(options=MediaOptions(media_root="source")), "out")
    result = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert result[0]["images"][0]["path"] == str(tmp_path / "source" / "photos" / "0.jpg")


def test_the_same_source_is_the_same_in_another_process_and_an_edited_one_is_not(chats):
    before = open_source_dataset(chats, "train").identity
    assert open_source_dataset(str(chats), "train").identity == before
    os.utime(chats, ns=(1, 1))
    assert open_source_dataset(chats, "train").identity != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jsonl", "no such file or folder; expected a file"),
        ("./missing", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("no-such/dataset", "cannot load the data"),
        (3, "got int"),
    ],
)
def test_sources_that_are_not_there(source, message):
    with pytest.raises(MMDatasetsError, match=message):
        open_source_dataset(source, "train")


def test_files_that_are_no_data(tmp_path):
    with pytest.raises(MMDatasetsError, match="the folder has no data files"):
        open_source_dataset(tmp_path, "train")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(MMDatasetsError, match=r"of one format .* got \.txt"):
        open_source_dataset(tmp_path / "a.txt", "train")
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(MMDatasetsError, match="cannot load the data"):
        open_source_dataset(tmp_path / "a.jsonl", "train")
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MMDatasetsError, match=r"of one format .* got \.csv, \.jsonl"):
        open_source_dataset(tmp_path, "train")


def test_what_a_run_writes_below_its_source_is_no_part_of_the_source(chats):
    folder = chats.parent
    plugin = make_plugin(
        metadata_cache=str(folder / "headers"), row_log=str(folder / "log"), max_length=60, on_overflow="drop"
    )
    first = preprocess(folder, plugin, folder / "mapped", rows_per_shard=4)
    assert list((folder / "headers").iterdir())
    assert list((folder / "log").iterdir())
    (folder / "mapped" / "data" / "train-00001-of-00003.parquet").unlink()
    second = preprocess(folder, plugin, folder / "mapped", rows_per_shard=4)
    assert second.shards_written == 1
    assert second.counts == first.counts


def test_the_source_is_not_written_into(chats):
    with pytest.raises(MMDatasetsError, match="into the folder that it reads"):
        preprocess(chats.parent, make_plugin(), chats.parent)
    assert [path.name for path in chats.parent.iterdir() if path.name.startswith(("data", "preprocess"))] == []
