"""`mmdatasets demo` through the entry point, on real processors and models."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib import resources
from pathlib import Path

import PIL.Image
import pytest
import torch
from datasets import load_from_disk

from mmdatasets.cli.main import main
from mmdatasets.cli.rows import read_chat_jsonl
from mmdatasets.testing import build_processor

DATA = Path(str(resources.files("mmdatasets.testing"))) / "data"


@pytest.fixture(scope="module")
def saved_processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    build_processor("qwen2_vl").save_pretrained(folder)
    return folder


def test_packaged_data_is_complete():
    rows = [json.loads(line) for line in (DATA / "chat.jsonl").read_text("utf-8").splitlines()]
    used = {image for row in rows for image in row["images"]}
    photos = {path.name for path in DATA.iterdir()} - {"chat.jsonl", "SOURCES.md"}
    assert used == photos
    sources = (DATA / "SOURCES.md").read_text("utf-8")
    assert all(f"`{name}`" in sources for name in photos)
    assert PIL.Image.open(DATA / "rocket_exif6.jpg").getexif()[0x0112] == 6
    assert PIL.Image.open(DATA / "retina_alpha.webp").mode == "RGBA"


def test_offline_demo_maps_collates_trains_and_saves(tmp_path, capsys):
    output = tmp_path / "output"
    for _ in range(2):  # the second run replaces the output of the first
        assert main(["demo", "--output", str(output), "--steps", "12"]) == 0
    text = capsys.readouterr().out
    first, last = map(float, re.findall(r"loss fell from (\d+\.\d+) to (\d+\.\d+)", text)[-1])
    assert last < 0.8 * first
    assert "Read 14 image headers, decoded no image" in text
    assert re.search(r"pixel_values +\(\d+, 1176\) +torch\.float32", text)
    assert "[[A tabby cat with green eyes.<|im_end|>" in text

    mapped = load_from_disk(str(output))
    source = read_chat_jsonl(DATA / "chat.jsonl")
    assert len(mapped) == len(source)
    assert [len(items) for items in mapped["media_info"]] == [len(images) for images in source["images"]]
    sizes = {(item["width"], item["height"]) for items in mapped["media_info"] for item in items}
    assert (288, 427) in sizes  # upright, as the EXIF orientation says
    # The saved dataset holds the files themselves, so it may be moved to another machine.
    image = mapped[0]["images"][0]
    assert image["bytes"] == (DATA / "cat.jpg").read_bytes()


def test_map_decodes_no_image(tmp_path):
    """Broken pixel data does not matter to the map stage, and it does to the collator."""
    shutil.copytree(DATA, tmp_path / "data")
    for path in (tmp_path / "data").glob("*.jpg"):
        path.write_bytes(path.read_bytes()[:2000])
    from mmdatasets import auto_plugin

    plugin = auto_plugin(build_processor("qwen2_vl"))
    expected = read_chat_jsonl(DATA / "chat.jsonl").map(plugin.transform, batched=True)
    cut = read_chat_jsonl(tmp_path / "data" / "chat.jsonl").map(plugin.transform, batched=True)
    assert cut["input_ids"][:] == expected["input_ids"][:]
    with pytest.raises(ValueError, match=r"cat\.jpg"):
        plugin.collator()([cut[0]])


def test_own_processor_and_data(tmp_path, capsys, saved_processor, monkeypatch):
    photo = tmp_path / "data" / "photos" / "my cat [1].jpg"
    photo.parent.mkdir(parents=True)
    shutil.copy(DATA / "cat.jpg", photo)
    row = {
        "messages": [
            {"role": "user", "content": "<image>Who?"},
            {"role": "assistant", "content": "My [red]cat[/red]."},
        ],
        "images": ["photos/my cat [1].jpg"],
    }
    data = tmp_path / "data" / "chat.jsonl"
    data.write_text(json.dumps(row) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--processor", str(saved_processor), "--data", "data/chat.jsonl"]) == 0
    text = capsys.readouterr().out
    assert "[[My [red]cat[/red].<|im_end|>" in text
    assert "Skipped" in text
    assert "loss" not in text

    processor = build_processor("qwen2_vl")
    parts = [{"type": "image", "path": str(photo)}, {"type": "text", "text": "Who?"}]
    answer = [{"type": "text", "text": "My [red]cat[/red]."}]
    expected = processor.apply_chat_template(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}], tokenize=True, return_dict=True
    )
    mapped = load_from_disk(str(tmp_path / "demo-output"))
    assert mapped[0]["input_ids"] == torch.tensor(expected["input_ids"]).flatten().tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"messages": [{"role": "user", "content": "<image>Who?"}], "images": ["missing.jpg"]}', "missing.jpg"),
        (
            '{"messages": [{"role": "user", "content": "Hello"}]}\n'
            '{"messages": [{"role": "user", "content": "<image><image>"}], "images": ["a.jpg"]}',
            "row 1",
        ),
        ('{"messages": [', "line 1: not valid JSON"),
        ('{"text": "Hello"}', 'expected "messages"'),
    ],
)
def test_bad_data_is_explained_without_a_traceback(tmp_path, capsys, content, message):
    data = tmp_path / "chat.jsonl"
    data.write_text(content, "utf-8")
    assert main(["demo", "--data", str(data), "--output", str(tmp_path / "output")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") or "\nerror: " in captured.err
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "output").exists()


def test_rows_without_an_answer_are_not_trained(tmp_path, capsys):
    data = tmp_path / "chat.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "Hello"}]}', "utf-8")
    assert main(["demo", "--data", str(data), "--output", str(tmp_path / "output")]) == 0
    text = capsys.readouterr().out
    assert "no token has a label" in text
    assert "loss" not in text


def test_unknown_and_text_only_processors(tmp_path, capsys):
    assert main(["demo", "--processor", str(tmp_path / "nothing"), "--output", str(tmp_path / "output")]) == 1
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["demo", "--processor", str(tmp_path / "empty"), "--output", str(tmp_path / "output")]) == 1
    assert "cannot load a processor" in capsys.readouterr().err
    build_processor("qwen2_vl").tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert main(["demo", "--processor", str(tmp_path / "tokenizer"), "--output", str(tmp_path / "output")]) == 1
    assert str(tmp_path / "tokenizer") in capsys.readouterr().err


def test_foreign_output_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["demo", "--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "thesis.txt" in captured.err
    assert captured.out == ""


def test_without_accelerate_the_extra_to_install_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # what Python itself does for a module that is not there
    assert main(["demo", "--output", str(tmp_path / "output")]) == 1
    captured = capsys.readouterr()
    assert "pip install 'mmdatasets[demo]'" in captured.err
    assert captured.out == ""
