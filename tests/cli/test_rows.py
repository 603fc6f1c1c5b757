"""Reading JSONL files of conversations."""

from __future__ import annotations

import json

import pytest
from datasets import Image, List

from mmdatasets import auto_plugin
from mmdatasets.cli.rows import read_chats
from mmdatasets.errors import ConversationError, MMDatasetsError
from mmdatasets.testing import build_processor

GOOD = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def test_text_and_typed_content_may_stand_in_one_file(tmp_path):
    parts = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    typed = {"messages": [{"role": "user", "content": parts}], "images": ["photos/a.jpg"], "id": 7}
    dataset = read_chats(write(tmp_path / "chat.jsonl", {**GOOD, "id": 6}, "", typed))
    assert dataset.features["images"] == List(Image(decode=False))
    assert dataset[0]["messages"] == GOOD["messages"]
    assert dataset[1]["messages"] == typed["messages"]
    assert dataset["id"][:] == [6, 7]
    assert dataset[1]["images"] == [{"bytes": None, "path": "photos/a.jpg"}]


def test_rows_without_images_and_rows_with_an_empty_list_stay_apart(tmp_path):
    rows = [GOOD, {**GOOD, "images": None}, {**GOOD, "images": []}]
    dataset = read_chats(write(tmp_path / "chat.jsonl", *rows))
    assert dataset.features["images"] == List(Image(decode=False))
    assert dataset["images"][:] == [None, None, []]


def test_paths_and_urls_are_kept_as_written(tmp_path):
    images = [
        "a b.jpg",
        "../a.jpg",
        "https://example.org/a.jpg",
        "data:image/png;base64,AAAA",
        str(tmp_path / "a.jpg"),
    ]
    dataset = read_chats(write(tmp_path / "chat.jsonl", {**GOOD, "images": images}))
    assert [image["path"] for image in dataset[0]["images"]] == images


def test_line_separators_inside_a_string_do_not_split_a_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "one\u2028two\x85three"}]}
    dataset = read_chats(write(tmp_path / "chat.jsonl", json.dumps(row, ensure_ascii=False)))
    assert dataset[0]["messages"] == row["messages"]


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([GOOD, "", '{"messages": ['], MMDatasetsError, "line 3: not valid JSON"),
        ([GOOD, "[1]"], MMDatasetsError, "line 2: expected a JSON object, got list"),
        (
            [{"title": "Hello"}],
            ConversationError,
            "jsonl: no column.* with a chat: expected 'messages'; or .*found title",
        ),
        ([GOOD, {"text": "Hello"}], ConversationError, "line 2.*rows are 'messages'.*this one has text"),
        ([{"messages": "Hello"}], ConversationError, "line 1.*expected a list of messages, got 'Hello'"),
        ([GOOD, {"messages": []}], ConversationError, "line 2.*expected a list of messages, got "),
        ([{"conversations": [{"from": "alien", "value": "x"}]}], ConversationError, "line 1.*'from' 'alien'"),
        ([{"prompt": "x", "chosen": "y", "rejected": "z"}], ConversationError, "plugin.preference_transform"),
        ([{**GOOD, "kto_tag": True}], ConversationError, "plugin.preference_transform"),
        ([{**GOOD, "images": ["a"], "image": "b"}], ConversationError, "line 1.*both 'images' and 'image'"),
        ([{**GOOD, "videos": [{}]}], ConversationError, 'line 1.*expected "videos", a list'),
        ([json.dumps([GOOD, 1])], MMDatasetsError, "row 1: expected a JSON object, got int"),
        (["[", json.dumps(GOOD)], MMDatasetsError, "jsonl: not valid JSON"),
        ([{**GOOD, "images": "a.jpg"}], ConversationError, 'line 1.*expected "images", a list'),
        ([{**GOOD, "images": [1]}], ConversationError, 'line 1.*expected "images", a list'),
        (["[" * 100_000], MMDatasetsError, "the JSON is nested too deeply"),
        ([{"messages": [{"role": "user", "content": "\ud800"}]}], MMDatasetsError, "do not fit into one table"),
        (["", " "], MMDatasetsError, "no rows"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, error, message):
    with pytest.raises(error, match=message):
        read_chats(write(tmp_path / "chat.jsonl", *lines))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(MMDatasetsError, match=r"missing\.jsonl: cannot read the data file"):
        read_chats(tmp_path / "missing.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MMDatasetsError, match="cannot read the data file"):
        read_chats(tmp_path / "binary.jsonl")


LAYOUTS = {
    "llava": [
        {
            "id": "1",
            "image": "a.jpg",
            "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A"}],
        },
        {"id": "2", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "B"}]},
    ],
    "trl": [{"prompt": [{"role": "user", "content": "<image>?"}], "completion": "A", "images": ["a.jpg"]}],
    "alpaca": [
        {"instruction": "?", "input": "<image>", "output": "A", "images": ["a.jpg"]},
        {"instruction": "?", "output": "B"},
    ],
    "text": [{"text": "<image>A", "image": "a.jpg"}, {"text": "B"}],
}


@pytest.mark.parametrize("form", ["lines", "array"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_maps_as_it_is_read(layout, form, tmp_path, image_file):
    rows = [
        {
            **row,
            **{name: str(image_file(60, 80)) for name in row if name == "image"},
            **{name: [str(image_file(60, 80))] for name in row if name == "images"},
        }
        for row in LAYOUTS[layout]
    ]
    lines = [json.dumps(rows, indent=1)] if form == "array" else rows
    dataset = read_chats(write(tmp_path / "data.json", *lines))
    assert dataset.features["images"] == List(Image(decode=False))
    assert "image" not in dataset.column_names
    assert "videos" not in dataset.column_names
    plugin = auto_plugin(build_processor("qwen2_vl"))
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))
    for found, row in zip(mapped, rows, strict=True):
        expected = plugin.transform({name: [value] for name, value in row.items()})
        assert found["input_ids"] == expected["input_ids"][0]
        assert found["labels"] == expected["labels"][0]


def test_videos_and_audio(tmp_path):
    rows = [
        {**GOOD, "videos": ["a.mp4"], "audio": "a.wav"},
        {**GOOD, "video": "b.mp4", "audios": ["b.wav", "c.wav"]},
        GOOD,
    ]
    dataset = read_chats(write(tmp_path / "data.jsonl", *rows))
    assert dataset["videos"][:] == [["a.mp4"], ["b.mp4"], None]
    assert dataset["audios"][:] == [["a.wav"], ["b.wav", "c.wav"], None]
