"""Rows fitted into a length through `datasets.map`: columns, processes, logs and the report."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets.fingerprint import Hasher
from transformers import WhisperFeatureExtractor

from mmdatasets import MediaOptions, ShrinkFloor, auto_plugin
from mmdatasets.errors import ConversationError, MMDatasetsError, RowTooLongError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms.row_log import SCHEMA, LoggedRow, read_row_log, write_row_log
from tests.conftest import ImageFactory

REPOSITORY = Path(__file__).parents[2]
LONG = "word " * 90


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


@pytest.fixture(scope="module")
def processor():
    return build_processor("qwen2_vl")


@pytest.fixture
def source(image_file: ImageFactory) -> datasets.Dataset:
    """Ten rows: three fit, three lose a turn, two have a last turn that is too long, two train nothing."""
    image = [str(image_file(60, 60))]
    rows = [
        *[{"messages": chat(f"<image>Short {n}?", "Yes."), "images": image} for n in range(3)],
        *[{"messages": chat(f"<image>{LONG}", "Yes.", f"Short {n}?", "No."), "images": image} for n in range(3)],
        *[{"messages": chat(f"{LONG} {n}", "Yes."), "images": []} for n in range(2)],
        *[{"messages": chat(f"Only a question {n}?"), "images": []} for n in range(2)],
    ]
    return datasets.Dataset.from_list([{**row, "id": index} for index, row in enumerate(rows)])


def map_with(plugin: BasePlugin, source: datasets.Dataset, **kwargs: object) -> datasets.Dataset:
    settings = {"batched": True, "with_indices": True, "features": plugin.features(source.features), "batch_size": 3}
    return source.map(plugin.transform, **(settings | kwargs))


@pytest.mark.parametrize("num_proc", [None, 2])
def test_every_row_is_counted(num_proc: int | None, processor, source: datasets.Dataset, tmp_path: Path) -> None:
    log = tmp_path / "log"
    plugin = auto_plugin(processor, max_length=60, on_overflow="drop_turns", row_log=log)
    assert Hasher.hash(plugin) == Hasher.hash(replace(plugin, row_log=str(log)))
    mapped = map_with(plugin, source, num_proc=num_proc)
    assert mapped.features == plugin.features(source.features)
    assert mapped["id"][:] == [0, 1, 2, 3, 4, 5]
    assert [row["outcome"] for row in mapped["fit"]] == ["kept"] * 3 + ["cut"] * 3
    assert [len(images) for images in mapped["images"]] == [1, 1, 1, 0, 0, 0]
    for given in (source, len(source), None):
        report = plugin.fit_report(mapped, given)
        assert (report.kept, report.cut, report.shrunk, report.dropped) == (3, 3, 0, 4)
        assert report.reasons["dropped"] == {"last_turn_too_long": 2, "nothing_to_train": 2}
    assert str(report).splitlines() == [
        "kept: 3",
        "cut: 3 (turns_dropped: 3)",
        "shrunk: 0",
        "dropped: 4 (last_turn_too_long: 2, nothing_to_train: 2)",
    ]
    table = read_row_log(log)
    assert table.schema == SCHEMA
    assert table["row"].to_pylist() == list(range(3, 10))
    lengths = auto_plugin(processor).transform(source[:])["length"]
    assert table["length"].to_pylist() == lengths[3:]
    # Mapped again, nothing is counted twice.
    again = map_with(plugin, source, load_from_cache_file=False)
    assert again.data.table.equals(mapped.data.table) or again[:] == mapped[:]
    assert plugin.fit_report(again, source) == report
    assert len(plugin.collator()([mapped[0], mapped[4]])["input_ids"]) == 2


def test_batches_of_which_no_row_is_left(processor, source: datasets.Dataset, tmp_path: Path) -> None:
    plugin = auto_plugin(processor, max_length=60, on_overflow="drop", row_log=str(tmp_path))
    mapped = map_with(plugin, source)
    assert mapped["id"][:] == [0, 1, 2]
    none = auto_plugin(processor, max_length=3, on_overflow="drop", row_log=str(tmp_path))
    for num_proc in (None, 2):
        empty = map_with(none, source, num_proc=num_proc)
        assert len(empty) == 0
        assert empty.features == none.features(source.features)
        assert none.fit_report(empty, source).dropped == len(source)
    # The two plugins wrote into one directory, and each counts its own.
    assert plugin.fit_report(mapped).dropped == 7


def test_parquet_round_trip_keeps_outcome_and_budget(processor, image_file: ImageFactory, tmp_path: Path) -> None:
    rows = [
        {"messages": chat("<image>What?", "This."), "images": [str(image_file(*size))]}
        for size in [(60, 60), (900, 700)]
    ]
    source = datasets.Dataset.from_list(rows)
    plugin = auto_plugin(processor, max_length=120, on_overflow="shrink")
    mapped = map_with(plugin, source)
    mapped.to_parquet(tmp_path / "rows.parquet")
    again = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    assert again["fit"][:] == mapped["fit"][:]
    ours, theirs = plugin.collator()(list(mapped)), plugin.collator()([dict(row) for row in again])
    assert ours["pixel_values"].equal(theirs["pixel_values"])
    assert mapped[1]["fit"]["outcome"] == "shrunk"


def test_streams_and_tables(processor, source: datasets.Dataset) -> None:
    plugin = auto_plugin(processor, max_length=60, on_overflow="drop_turns")
    expected = map_with(plugin, source)
    stream = source.to_iterable_dataset().map(
        plugin.transform, batched=True, batch_size=4, features=expected.features, remove_columns=["messages"]
    )
    assert [row["id"] for row in stream] == [0, 1, 2, 3, 4, 5]
    assert [row["input_ids"] for row in stream] == expected["input_ids"][:]
    with pytest.raises(MMDatasetsError, match="not one that streams"):
        plugin.fit_report(stream)
    table = plugin.transform(source.data.table)
    assert isinstance(table, pa.Table)
    assert table["id"].to_pylist() == [0, 1, 2, 3, 4, 5]


def test_without_a_log_each_batch_warns(processor, source: datasets.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    plugin = auto_plugin(processor, max_length=60, on_overflow="drop")
    with caplog.at_level(logging.WARNING, "mmdatasets"):
        made = plugin.transform(source[:])
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "dropped 7 of 10 rows (nothing_to_train: 2, too_long: 5)"
    ]
    mapped = datasets.Dataset.from_dict({"fit": made["fit"]})
    assert plugin.fit_report(mapped).dropped is None
    assert "dropped: unknown" in str(plugin.fit_report(mapped))
    assert plugin.fit_report(mapped, source).reasons["dropped"] == {"not_recorded": 7}


def test_reports_that_cannot_be_right_are_refused(processor, source: datasets.Dataset, tmp_path: Path) -> None:
    plugin = auto_plugin(processor, max_length=60, on_overflow="drop", row_log=str(tmp_path))
    mapped = map_with(plugin, source)
    with pytest.raises(MMDatasetsError, match=r"6 row.s. are missing, but 7 are logged"):
        plugin.fit_report(mapped, 9)
    with pytest.raises(MMDatasetsError, match="with the column 'fit'"):
        plugin.fit_report(source)


def test_an_error_names_the_row_of_the_dataset(processor, source: datasets.Dataset) -> None:
    with pytest.raises(RowTooLongError, match="row 3: it has"):
        map_with(auto_plugin(processor, max_length=60), source)


FIELDS = {"max_length": 60, "on_overflow": "shrink", "shrink_floor": ShrinkFloor(video_frames=3)}


def test_the_fields_are_part_of_a_stable_fingerprint(processor) -> None:
    plugin = auto_plugin(processor, **FIELDS)
    before = Hasher.hash(plugin)
    assert plugin.settings_digest == before == Hasher.hash(plugin)
    others = [{"max_length": 61}, {"on_overflow": "drop"}, {"shrink_floor": ShrinkFloor()}, {"row_log": "x"}]
    assert len({before, *(Hasher.hash(auto_plugin(processor, **FIELDS | other)) for other in others)}) == 5


@pytest.mark.slow
def test_another_process_finds_the_same_fingerprint(processor) -> None:
    code = (
        "import json; from datasets.fingerprint import Hasher; from mmdatasets import auto_plugin, ShrinkFloor;"
        "from mmdatasets.testing import build_processor;"
        "print(json.dumps(Hasher.hash(auto_plugin(build_processor('qwen2_vl'), max_length=60, on_overflow='shrink',"
        "shrink_floor=ShrinkFloor(video_frames=3)))))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment
    )
    assert json.loads(done.stdout) == Hasher.hash(auto_plugin(processor, **FIELDS))


# ---------------------------------------------------------------------------------------------- videos and audio


@pytest.mark.parametrize("sound", [pytest.param(False, marks=pytest.mark.slow), True])
def test_truncation_takes_every_kind_of_media_along(sound: bool, image_file: ImageFactory, tmp_path: Path) -> None:
    """A row that is cut has the media of the conversation that ends there, and makes its tensors."""
    omni = build_processor("qwen2_5_omni")
    # Five minutes of spectrogram for each audio, as the checkpoint's settings have it, take long to make.
    omni.feature_extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=4)
    video = write_video(tmp_path / "clip.mkv", VideoSpec(num_frames=8, format="matroska", audio_codec="pcm_s16le"))
    speech = write_audio(tmp_path / "speech.wav", 16_000, 3.2)
    frames = [str(image_file(60, 60, seed=seed)) for seed in range(4)]
    kinds = {"image": str(image_file(90, 60)), "video": str(video), "audio": str(speech), "frames": frames}
    order = ["image", "audio", "video", "frames", "image"]
    options = MediaOptions(
        use_audio_in_video=sound, audio_max_duration_s=1.5, long_audio="chunk", video_sampling="all"
    )

    def batch(count: int) -> dict[str, list[object]]:
        turns = [
            text for kind in order[:count] for text in (f"<{kind.replace('frames', 'video')}>What?", "This it is.")
        ]
        of = lambda *names: [kinds[kind] for kind in order[:count] if kind in names]  # noqa: E731
        media = {"images": of("image"), "videos": of("video", "frames"), "audios": of("audio")}
        return {"messages": [chat(*turns)], **{name: [items] for name, items in media.items()}}

    plain = auto_plugin(omni, options=options)
    whole = plain.transform(batch(5))
    spans = [(record["start"], record["end"]) for record in whole["media_info"][0]]
    assert [record["item"] for record in whole["media_info"][0] if record["modality"] == "audio"] == [0, 0, 0]
    edges = sorted({end + shift for _, end in spans for shift in (-1, 0, 9)})
    seen = set()
    for max_length in edges:
        plugin = auto_plugin(omni, options=options, max_length=max_length, on_overflow="truncate")
        made = plugin.transform(batch(5))
        if not made["input_ids"]:
            continue
        length = made["length"][0]
        assert made["input_ids"][0] == whole["input_ids"][0][:length]
        assert not any(start < length < end for start, end in spans)
        chunks = [record for record in made["media_info"][0] if record["modality"] == "audio"]
        assert len(chunks) in (0, 3)
        number = sum(len(made[name][0]) for name in ("images", "videos", "audios"))
        shorter = plain.transform(batch(number))
        for name in ("images", "videos", "video_frames", "audios", "media_info"):
            assert made[name] == shorter[name], name
        if number not in seen:
            row, other = ({name: values[0] for name, values in one.items()} for one in (made, shorter))
            ours, theirs = plugin.collator()([row]), plain.collator()([other])
            names = set(theirs) - {"input_ids", "labels", "attention_mask", "mm_token_type_ids", "use_audio_in_video"}
            assert names or not number
            assert all(ours[name].equal(theirs[name]) for name in names)
        seen.add(number)
    assert seen >= {1, 2, 3, 4}


# --------------------------------------------------------------------------------------------------- preferences


def test_preferences_go_by_the_longer_side(processor, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": chat("What?"),
            "chosen": [{"role": "assistant", "content": good}],
            "rejected": [{"role": "assistant", "content": bad}],
        }
        for good, bad in [("Yes.", "No."), (LONG, "No."), ("Yes.", LONG)]
    ]
    source = datasets.Dataset.from_list(rows)
    plugin = auto_plugin(processor, max_length=60, on_overflow="drop", row_log=str(tmp_path))
    features = plugin.preference_features(source.features)
    mapped = source.map(plugin.preference_transform, batched=True, with_indices=True, features=features)
    assert mapped.features == features
    assert len(mapped) == 1
    assert mapped[0]["fit"]["outcome"] == "kept"
    report = plugin.fit_report(mapped, source)
    assert (report.kept, report.reasons["dropped"]) == (1, {"too_long": 2})
    assert read_row_log(tmp_path)["row"].to_pylist() == [1, 2]
    plain = auto_plugin(processor).preference_transform(source[:])
    assert mapped[0]["chosen_ids"] == plain["chosen_ids"][0]
    with pytest.raises(RowTooLongError, match="row 1, column 'chosen'"):
        source.map(auto_plugin(processor, max_length=60).preference_transform, batched=True, with_indices=True)
    kto = datasets.Dataset.from_list(
        [{"prompt": "What?", "completion": text, "label": True} for text in ("Yes.", LONG)]
    )
    kept = kto.map(plugin.preference_transform, batched=True, with_indices=True)
    assert kept["label"][:] == [True]
    with pytest.raises(MMDatasetsError, match="on_overflow='truncate' is not for preference data"):
        auto_plugin(processor, max_length=60, on_overflow="truncate").preference_transform(source[:])


# --------------------------------------------------------------------------------------------------- the log


def test_the_log_is_written_whole_and_named_by_content(tmp_path: Path) -> None:
    rows = [LoggedRow(4, "dropped", "too_long", "images", 1, "a.jpg", 900), LoggedRow(None, "cut", "truncated")]
    first = write_row_log(str(tmp_path / "a" / "b"), "run1", [b"batch"], rows)
    assert write_row_log(str(tmp_path / "a" / "b"), "run1", [b"batch"], rows) == first
    other = write_row_log(str(tmp_path / "a" / "b"), "run1", [b"other batch"], rows[:1])
    assert other != first
    write_row_log(str(tmp_path / "a" / "b"), "run2", [b"batch"], rows[1:])
    assert read_row_log(tmp_path / "a" / "b")["row"].to_pylist() == [4, None, None]
    assert write_row_log(str(tmp_path / "a" / "b"), "run1", [b"batch"], []) is None
    assert len(list((tmp_path / "a" / "b").iterdir())) == 3
    table = read_row_log(tmp_path / "a" / "b", "run1")
    assert table["row"].to_pylist() == [4, None]
    assert table.to_pylist()[0] == {
        "row": 4,
        "outcome": "dropped",
        "reason": "too_long",
        "column": "images",
        "index": 1,
        "source": "a.jpg",
        "length": 900,
        "message": None,
        "digest": None,
    }
    assert read_row_log(tmp_path / "nothing").num_rows == 0
    first.write_bytes(b"no parquet")
    with pytest.raises(MMDatasetsError, match="cannot read this part"):
        read_row_log(tmp_path / "a" / "b")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(MMDatasetsError, match="cannot write the log of rows"):
        write_row_log(str(blocked), "run1", [], rows)


def test_fit_is_a_column_of_the_result_only(processor, source: datasets.Dataset) -> None:
    assert "fit" not in auto_plugin(processor).features(source.features)
    with pytest.raises(ConversationError, match="would overwrite the column"):
        auto_plugin(processor, max_length=9).transform({"messages": [chat("a", "b")], "fit": [1]})
