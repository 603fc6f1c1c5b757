"""The files hold what `map` makes, row for row, with the same types; and other things that are promised of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset, Value, load_dataset

from mmdatasets import MediaOptions, auto_plugin, preprocess
from mmdatasets.errors import MediaError, MMDatasetsError, TooManyBadRowsError
from mmdatasets.shards import embed, reading
from mmdatasets.shards.writer import STAMP
from mmdatasets.testing import build_processor
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms.row_log import read_row_log
from tests.shards.runs import contents, identities, make_plugin, write_chats


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "source", 23)


def loaded(output, **arguments):
    return load_dataset(str(output), cache_dir=str(output.parent / "cache"), split="train", **arguments)


def rows_of(dataset):
    return dataset.to_list()


def mapped_rows(path, tmp_path, **fields):
    """What `map` makes of a file whose paths are relative to its folder."""
    dataset = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    plugin = make_plugin(options=MediaOptions(media_root=str(path.parent)), **fields)
    return dataset.map(plugin.transform, batched=True, with_indices=True, features=plugin.features(dataset.features))


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize("fields", [{}, {"max_length": 60, "on_overflow": "drop"}], ids=["all", "dropped"])
def test_the_result_is_that_of_map(chats, tmp_path, num_proc, fields):
    report = preprocess(
        chats, make_plugin(**fields), tmp_path / "out", rows_per_shard=5, batch_size=3, num_proc=num_proc
    )
    mapped = mapped_rows(chats, tmp_path, **fields)
    result = loaded(tmp_path / "out")
    assert result.features == mapped.features
    assert rows_of(result) == rows_of(mapped)
    assert rows_of(result.select([3, 1])) == [result[3], result[1]]
    counts = report.counts
    assert (counts.rows_read, counts.rows_written, report.num_shards) == (23, len(mapped), 5)
    assert counts.tokens == sum(mapped["length"])
    assert counts.media == {"image": sum(map(len, mapped["images"]))}
    assert counts.media_tokens == sum(item["num_tokens"] for items in mapped["media_info"] for item in items)
    assert counts.outcomes == ({"dropped": {"too_long": 23 - len(mapped)}} if fields else {})
    assert sorted(contents(tmp_path / "out")) == [
        *(f"data/train-{index:05d}-of-00005.parquet" for index in range(5)),
        "preprocess-train.json",
    ]


def test_processes_and_repetition_make_no_difference_to_the_files(chats, tmp_path):
    plugin = make_plugin()
    for num_proc in (1, 2, 3):
        preprocess(chats, plugin, tmp_path / f"out{num_proc}", rows_per_shard=4, num_proc=num_proc)
    expected = contents(tmp_path / "out1")
    assert contents(tmp_path / "out2") == contents(tmp_path / "out3") == expected
    before = identities(tmp_path / "out1")
    again = preprocess(chats, make_plugin(), tmp_path / "out1", rows_per_shard=4, num_proc=2)
    assert (again.shards_written, again.rows_mapped, again.counts.rows_read) == (0, 0, 23)
    assert identities(tmp_path / "out1") == before
    assert contents(tmp_path / "out1") == expected


def test_the_manifest_says_what_the_output_is(chats, tmp_path):
    report = preprocess(chats, make_plugin(max_length=60, on_overflow="drop"), tmp_path / "out", rows_per_shard=8)
    manifest = json.loads((tmp_path / "out" / "preprocess-train.json").read_text("utf-8"))
    assert manifest["complete"]
    assert manifest["counts"] == report.counts.to_json()
    assert [shard["rows_read"] for shard in manifest["shards"]] == [8, 8, 7]
    assert manifest["identity"]["plugin"]["options"]["media_root"] == str(chats.parent)
    assert manifest["identity"]["plugin"]["processor"]["class"] == "Qwen2VLProcessor"
    stamp = json.loads(pq.read_metadata(tmp_path / "out" / manifest["shards"][1]["name"]).metadata[STAMP])
    assert (stamp["start"], stamp["stop"], stamp["run"]) == (8, 16, manifest["run"])


def test_shards_of_which_nothing_is_left_still_load(tmp_path):
    long = [{"role": "user", "content": "very " * 100}, {"role": "assistant", "content": "Yes."}]
    short = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Yes."}]
    source = Dataset.from_list([{"messages": row} for row in [long, long, short, long, long, long]])
    plugin = make_plugin(max_length=60, on_overflow="drop", row_log=str(tmp_path / "log"))
    report = preprocess(source, plugin, tmp_path / "out", rows_per_shard=2)
    assert report.rows_dropped == 5
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("data/*"))] == [0, 1, 0]
    result = loaded(tmp_path / "out")
    assert (len(result), result.features) == (1, plugin.features(source.features))
    assert len(list(loaded(tmp_path / "out", streaming=True))) == 1
    assert read_row_log(tmp_path / "log", plugin.settings_digest)["row"].to_pylist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("way", ["embed_media", "materialise"])
def test_media_within_the_files_needs_no_others(tmp_path, monkeypatch, way):
    monkeypatch.setattr(embed, "_TARGET_BYTES", 1)  # a piece for each row
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_image(folder / name, 84, 56, seed=ord(name[0]))
    write_video(folder / "clip.mp4", VideoSpec(num_frames=8, width=64, height=48))
    write_audio(folder / "sound.wav", sampling_rate=16_000, duration_s=0.5)
    answer = {"role": "assistant", "content": "Yes."}
    rows = [
        {"text": "<image><video>", "images": ["a.png"], "videos": ["clip.mp4"], "audios": []},
        {"text": "<audio>", "images": [], "videos": [], "audios": ["sound.wav"]},
        {"text": "none", "images": None, "videos": None, "audios": None},
    ]
    messages = [[{"role": "user", "content": row.pop("text")}, answer] for row in rows]
    source = Dataset.from_list([{"messages": chat, **row} for chat, row in zip(messages, rows, strict=True)])
    plugin = auto_plugin(build_processor("qwen2_5_omni"), options=MediaOptions(media_root=str(folder)))
    by_reference = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    batch = plugin.collator()(by_reference.to_list())

    preprocess(source, plugin, tmp_path / "out", **{way: True})
    [file] = (tmp_path / "out").glob("data/*.parquet")
    assert pq.read_metadata(file).num_row_groups == 1  # pieces are small here
    result = loaded(tmp_path / "out")
    assert result.features == by_reference.features
    if way == "embed_media":
        assert result[0]["images"] == [{"path": "a.png", "bytes": (folder / "a.png").read_bytes()}]
        assert result[0]["videos"] == [{"path": "clip.mp4", "bytes": (folder / "clip.mp4").read_bytes()}]
        assert result[1]["audios"] == [{"path": "sound.wav", "bytes": (folder / "sound.wav").read_bytes()}]
        media = {"images", "videos", "audios"}
        assert [{k: v for k, v in row.items() if k not in media} for row in result.to_list()] == [
            {k: v for k, v in row.items() if k not in media} for row in by_reference.to_list()
        ]
    shutil.rmtree(folder)
    again = plugin.collator()(result.to_list())
    assert again.keys() == batch.keys()
    assert all(again[name].equal(value) for name, value in batch.items() if hasattr(value, "equal"))


def test_materialised_media_of_several_rows_is_stored_once(tmp_path):
    photo = str(write_image(tmp_path / "a.jpg", 700, 500))
    chat = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Yes."}]
    plugin = make_plugin(options=MediaOptions(image_max_pixels=100_352))
    sizes = []
    for count in (1, 40):
        source = Dataset.from_list([{"messages": chat, "images": [photo]}] * count)
        report = preprocess(source, plugin, tmp_path / f"out{count}", materialise=True)
        sizes.append(report.num_bytes)
    pixels = 364 * 252 * 3
    assert pixels < sizes[0] < sizes[1] < 1.2 * pixels
    lossy = preprocess(source, plugin, tmp_path / "lossy", materialise=True, quality=80)
    assert lossy.num_bytes < sizes[0] / 3
    with pytest.raises(MMDatasetsError, match=r"output\.quality: 80 there, null now"):
        preprocess(source, plugin, tmp_path / "lossy", materialise=True)
    with pytest.raises(ValueError, match="quality is of what is stored with materialise=True"):
        preprocess(source, plugin, tmp_path / "other", quality=80)


def test_frames_of_a_video_are_embedded_too(tmp_path):
    frames = [str(write_image(tmp_path / f"{index}.png", 56, 56, seed=index)) for index in range(4)]
    chat = [{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "Yes."}]
    source = Dataset.from_list([{"messages": chat, "videos": [frames]}])
    preprocess(source, make_plugin(), tmp_path / "out", embed_media=True)
    row = loaded(tmp_path / "out")[0]
    assert row["videos"] == [None]
    expected = [{"path": f"{index}.png", "bytes": Path(frame).read_bytes()} for index, frame in enumerate(frames)]
    assert row["video_frames"] == [expected]


def test_what_cannot_be_embedded_names_row_column_and_index(tmp_path):
    write_image(tmp_path / "a.png", 56, 56)
    long = {"messages": chat("<image>" + "long " * 80), "images": [str(tmp_path / "a.png")]}
    rows = [{"messages": chat("<image>?"), "images": [str(tmp_path / name)]} for name in ("a.png", "b.png")]
    source = Dataset.from_list([long, *rows])
    write_image(tmp_path / "b.png", 56, 56)
    plugin = make_plugin(max_length=60, on_overflow="drop")
    table = plugin.transform(source.with_format("arrow")[:], [0, 1, 2])
    (tmp_path / "b.png").unlink()
    with pytest.raises(MediaError, match=r"row 2, column 'images', index 0 \(.*b\.png\)"):
        list(embed.embed_media(table, [1, 2], plugin.options))


def test_batches_of_large_rows_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_BYTES", 1000)
    source = Dataset.from_list([{"blob": b"x" * 400}] * 7)
    batches = list(reading.read_batches(source, 1, 7, batch_size=6))
    assert [(first, table.num_rows) for first, table in batches] == [(1, 1), (2, 2), (4, 1), (5, 2)]


def test_rows_keep_other_columns_and_formats_are_ignored(tmp_path):
    source = Dataset.from_list([{"messages": chat("Well?"), "score": 0.5, "id": str(row)} for row in range(4)])
    source = source.cast_column("score", Value("float32")).shuffle(seed=1).with_format("numpy")
    preprocess(source, make_plugin(), tmp_path / "out")
    result = loaded(tmp_path / "out")
    assert result.features["score"] == Value("float32")
    assert result["id"][:] == source.with_format(None)["id"][:]


def test_preference_data(tmp_path):
    sides = {"chosen": "A cat.", "rejected": "A dog."}
    answers = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    source = Dataset.from_list([{"prompt": [{"role": "user", "content": "What?"}], **answers}] * 3)
    plugin = make_plugin()
    report = preprocess(source, plugin, tmp_path / "out", preference=True)
    features = plugin.preference_features(source.features)
    mapped = source.map(plugin.preference_transform, batched=True, features=features)
    assert rows_of(loaded(tmp_path / "out")) == rows_of(mapped)
    assert report.counts.tokens == sum(mapped["length"])


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("num_proc", [1, 2])
def test_bad_rows_are_left_out_and_counted(chats, tmp_path, num_proc):
    (chats.parent / "photos" / "3.jpg").write_bytes(b"no photo")
    log = str(tmp_path / "log")
    fields = {"on_error": "quarantine", "max_length": 60, "on_overflow": "drop", "row_log": log}
    report = preprocess(chats, make_plugin(**fields), tmp_path / "out", rows_per_shard=5, num_proc=num_proc)
    mapped = mapped_rows(chats, tmp_path, **{**fields, "row_log": str(tmp_path / "of_map")})
    assert rows_of(loaded(tmp_path / "out")) == rows_of(mapped)
    dropped = Counter(read_row_log(log)["reason"].to_pylist())
    assert dropped["media_decode"] > 1
    assert report.counts.outcomes == {"dropped": dict(dropped)}
    assert report.rows_dropped == dropped.total() == 23 - len(mapped)
    assert f"media_decode: {dropped['media_decode']}" in str(report)
    assert read_row_log(log).drop_columns("digest").equals(read_row_log(tmp_path / "of_map").drop_columns("digest"))
    policy = {"on_error": "quarantine", "row_log": str(tmp_path / "given_log")}
    preprocess(chats, make_plugin(), tmp_path / "given", num_proc=num_proc, **policy)
    assert Counter(read_row_log(policy["row_log"])["reason"].to_pylist())["media_decode"] > 1
    few = make_plugin(on_error="skip", max_bad_rows=1)
    with pytest.raises(TooManyBadRowsError, match=r"2 of the first \d+ rows"):
        preprocess(chats, few, tmp_path / "few", num_proc=num_proc)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_errors_name_the_row_and_what_was_finished_stays(chats, tmp_path, num_proc):
    (chats.parent / "photos" / "3.jpg").rename(tmp_path / "hidden.jpg")  # row 2 is the first to need it
    with pytest.raises(MediaError, match=r"row \d+, column 'images', index \d .*photos/3\.jpg") as raised:
        preprocess(chats, make_plugin(), tmp_path / "out", rows_per_shard=1, num_proc=num_proc)
    assert raised.value.row in {row for row in range(23) if row % 5 < 4 and {row % 6, (row + row % 2) % 6} & {3}}
    assert not [name for name in contents(tmp_path / "out") if name.rpartition("/")[2].startswith(".")]
    done = identities(tmp_path / "out")
    assert done or num_proc > 1
    (tmp_path / "hidden.jpg").rename(chats.parent / "photos" / "3.jpg")
    preprocess(chats, make_plugin(), tmp_path / "out", rows_per_shard=1, num_proc=num_proc)
    assert {name: identities(tmp_path / "out")[name] for name in done} == done
    assert rows_of(loaded(tmp_path / "out")) == rows_of(mapped_rows(chats, tmp_path))


@pytest.mark.parametrize(
    ("plugin", "settings", "line"),
    [
        ({"max_length": 500}, {}, "plugin.max_length: null there, 500 now"),
        ({"train_on": "all"}, {}, 'plugin.train_on: "assistant" there, "all" now'),
        (
            {"options": MediaOptions(image_max_pixels=6400)},
            {},
            "plugin.options.image_max_pixels: null there, 6400 now",
        ),
        ({}, {"rows_per_shard": 7}, "output.rows_per_shard: 5 there, 7 now"),
        ({}, {"embed_media": True}, "output.embed_media: false there, true now"),
    ],
)
def test_other_settings_are_refused_and_named(chats, tmp_path, plugin, settings, line):
    preprocess(chats, make_plugin(), tmp_path / "out", rows_per_shard=5)
    before = contents(tmp_path / "out")
    arguments = {"rows_per_shard": 5, **settings}
    with pytest.raises(MMDatasetsError, match="other settings or of another source") as raised:
        preprocess(chats, make_plugin(**plugin), tmp_path / "out", **arguments)
    assert [text.strip() for text in str(raised.value).splitlines() if " there, " in text] == [line]
    assert contents(tmp_path / "out") == before
    preprocess(chats, make_plugin(**plugin), tmp_path / "out", overwrite=True, **arguments)
    preprocess(chats, make_plugin(**plugin), tmp_path / "fresh", **arguments)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_another_source_or_processor_is_refused(chats, tmp_path):
    plugin = make_plugin()
    preprocess(chats, plugin, tmp_path / "out")
    with pytest.raises(
        MMDatasetsError, match=r'plugin\.processor\.class: "Qwen2VLProcessor" there, "Qwen3VLProcessor"'
    ):
        preprocess(chats, auto_plugin(build_processor("qwen3_vl")), tmp_path / "out")
    with chats.open("a", encoding="utf-8") as file:
        file.write(chats.read_text("utf-8").splitlines()[0] + "\n")
    with pytest.raises(MMDatasetsError, match=r"source\.bytes: \d+ there, \d+ now"):
        preprocess(chats, plugin, tmp_path / "out")
    report = preprocess(chats, plugin, tmp_path / "out", overwrite=True)
    assert report.counts.rows_read == 24


def test_overwriting_does_not_begin_anew_each_time(chats, tmp_path):
    preprocess(chats, make_plugin(), tmp_path / "out", rows_per_shard=5)
    before = identities(tmp_path / "out")
    preprocess(chats, make_plugin(), tmp_path / "out", rows_per_shard=5, overwrite=True)
    assert identities(tmp_path / "out") == before


def test_files_that_nobody_explains_are_not_touched(chats, tmp_path):
    file = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    with pytest.raises(MMDatasetsError, match=r"holds train-00000-of-00001\.parquet and no preprocess-train\.json"):
        preprocess(chats, make_plugin(), tmp_path / "out", overwrite=True)
    assert file.read_bytes() == b"mine"
    (tmp_path / "out" / "preprocess-train.json").write_text("[]")
    with pytest.raises(MMDatasetsError, match="no manifest of preprocess"):
        preprocess(chats, make_plugin(), tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_that_cannot_be_made(chats, tmp_path, output):
    (tmp_path / "file").write_text("")
    with pytest.raises(MMDatasetsError, match="cannot write the output"):
        preprocess(chats, make_plugin(), tmp_path / output)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_proc": 0}, ValueError, "num_proc must be a positive integer, got 0"),
        ({"rows_per_shard": 0}, ValueError, "rows_per_shard must be a positive integer, got 0"),
        ({"batch_size": True}, ValueError, "batch_size must be a positive integer, got True"),
        ({"split": "../x"}, MMDatasetsError, "is no name of a split"),
    ],
)
def test_wrong_arguments(chats, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        preprocess(chats, make_plugin(), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_what_is_no_source(tmp_path):
    stream = IterableDataset.from_generator(lambda: iter([{"messages": chat("Well?")}]))
    for source, message in [
        (stream, "IterableDataset.*streams"),
        ({"train": 1}, r"source\['train'\]"),
        (Dataset.from_dict({"messages": []}), "has no rows"),
    ]:
        with pytest.raises(MMDatasetsError, match=message):
            preprocess(source, make_plugin(), tmp_path / "out")


def chat(question):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
