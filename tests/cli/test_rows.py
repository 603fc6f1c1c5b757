"""Reading JSONL files of conversations."""

from __future__ import annotations

import json

import pytest
from datasets import Image, List

from mmdatasets.cli.rows import read_chat_jsonl
from mmdatasets.errors import ConversationError, MMDatasetsError

GOOD = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def test_text_and_typed_content_may_stand_in_one_file(tmp_path):
    parts = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    typed = {"messages": [{"role": "user", "content": parts}], "images": ["photos/a.jpg"], "id": 7}
    dataset = read_chat_jsonl(write(tmp_path / "chat.jsonl", {**GOOD, "id": 6}, "", typed))
    assert dataset.features["images"] == List(Image(decode=False))
    assert dataset[0]["messages"] == GOOD["messages"]
    assert dataset[1]["messages"] == typed["messages"]
    assert dataset["id"][:] == [6, 7]
    assert dataset[1]["images"] == [{"bytes": None, "path": "photos/a.jpg"}]


def test_rows_without_images_and_rows_with_an_empty_list_stay_apart(tmp_path):
    rows = [GOOD, {**GOOD, "images": None}, {**GOOD, "images": []}]
    dataset = read_chat_jsonl(write(tmp_path / "chat.jsonl", *rows))
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
    dataset = read_chat_jsonl(write(tmp_path / "chat.jsonl", {**GOOD, "images": images}))
    assert [image["path"] for image in dataset[0]["images"]] == images


def test_line_separators_inside_a_string_do_not_split_a_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "one\u2028two\x85three"}]}
    dataset = read_chat_jsonl(write(tmp_path / "chat.jsonl", json.dumps(row, ensure_ascii=False)))
    assert dataset[0]["messages"] == row["messages"]


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([GOOD, "", '{"messages": ['], MMDatasetsError, "line 3: not valid JSON"),
        ([GOOD, "[1]"], MMDatasetsError, "line 2: expected a JSON object, got list"),
        ([{"text": "Hello"}], ConversationError, 'line 1.*expected "messages".*no such key'),
        ([{"messages": "Hello"}], ConversationError, "line 1.*expected \"messages\".*'Hello'"),
        ([GOOD, {"messages": []}], ConversationError, 'line 2.*expected "messages"'),
        ([{**GOOD, "images": "a.jpg"}], ConversationError, 'line 1.*expected "images", a list'),
        ([{**GOOD, "images": [1]}], ConversationError, 'line 1.*expected "images", a list'),
        (["[" * 100_000], MMDatasetsError, "line 1: the JSON is nested too deeply"),
        ([{"messages": [{"role": "user", "content": "\ud800"}]}], MMDatasetsError, "do not fit into one table"),
        (["", " "], MMDatasetsError, "no rows"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, error, message):
    with pytest.raises(error, match=message):
        read_chat_jsonl(write(tmp_path / "chat.jsonl", *lines))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(MMDatasetsError, match=r"missing\.jsonl: cannot read the data file"):
        read_chat_jsonl(tmp_path / "missing.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MMDatasetsError, match="cannot read the data file"):
        read_chat_jsonl(tmp_path / "binary.jsonl")
