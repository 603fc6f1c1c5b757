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

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.cli import tiny_training
from mmdatasets.cli.main import main
from mmdatasets.cli.rows import read_chats
from mmdatasets.testing import build_processor, make_image
from mmdatasets.testing.video import VideoSpec, write_video

DATA = Path(str(resources.files("mmdatasets.testing"))) / "data"


@pytest.fixture(scope="module")
def saved_processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    build_processor("qwen2_vl").save_pretrained(folder)
    return folder


def test_packaged_data_is_complete():
    rows = [json.loads(line) for line in (DATA / "chat.jsonl").read_text("utf-8").splitlines()]
    used = {image for row in rows for image in row["images"]}
    media = {path.name for path in DATA.iterdir()} - {"chat.jsonl", "SOURCES.md"}
    assert used == media - {"speech.flac"}
    sources = (DATA / "SOURCES.md").read_text("utf-8")
    assert all(f"`{name}`" in sources for name in media)
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
    source = read_chats(DATA / "chat.jsonl")
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

    def mapped(folder):
        plugin = auto_plugin(processor, options=MediaOptions(media_root=str(folder)))
        return read_chats(folder / "chat.jsonl").map(plugin.transform, batched=True, with_indices=True)

    processor = build_processor("qwen2_vl")
    expected, cut = mapped(DATA), mapped(tmp_path / "data")
    assert cut["input_ids"][:] == expected["input_ids"][:]
    with pytest.raises(ValueError, match=r"cat\.jpg"):
        auto_plugin(processor).collator()([cut[0]])


def save_processor(name, folder, **settings):
    processor = build_processor(name)
    for key, value in settings.items():
        setattr(processor, key, value)
    processor.save_pretrained(folder)
    return folder


def write_chats(folder, *chats):
    """Writes chats of one question and one answer, with images or without such a key."""
    rows = []
    for question, answer, *images in chats:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages} | ({"images": images[0]} if images else {}))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("limit", [[], ["--max-pixels", "0"]])
def test_own_processor_and_data(tmp_path, capsys, saved_processor, monkeypatch, limit):
    """The demo goes all the way, and the token ids are the processor's own: with the demo's limit, and with none."""
    photo = tmp_path / "data" / "photos" / "my cat [1].jpg"
    write_chats(tmp_path / "data", ("<image>Who?", "My [red]cat[/red].", ["photos/my cat [1].jpg"]))
    photo.parent.mkdir()
    shutil.copy(DATA / "cat.jpg", photo)
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--processor", str(saved_processor), "--data", "data/chat.jsonl", "--steps", "6", *limit]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "[[My [red]cat[/red].<|im_end|>" in text
    assert "Qwen2VLForConditionalGeneration with random weights" in text
    assert "loss fell from" in text
    assert ("at most 65,536 pixels" in text) == (not limit)

    processor = build_processor("qwen2_vl")
    size = dict(processor.image_processor.size)
    parts = [{"type": "image", "path": str(photo)}, {"type": "text", "text": "Who?"}]
    answer = [{"type": "text", "text": "My [red]cat[/red]."}]
    expected = processor.apply_chat_template(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}],
        tokenize=True,
        return_dict=True,
        processor_kwargs={"images_kwargs": {"size": size if limit else size | {"longest_edge": 256 * 256}}},
    )
    mapped = load_from_disk(str(tmp_path / "demo-output"))
    assert mapped[0]["input_ids"] == torch.tensor(expected["input_ids"]).flatten().tolist()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("qwen3_vl", "Qwen3VLForConditionalGeneration"),  # its class is also Qwen3.5's
        ("llama4", "Llama4ForConditionalGeneration"),  # bfloat16 pixels
        ("mistral3", "Mistral3ForConditionalGeneration"),  # its class is also Pixtral's, whose model does not fit
    ],
)
def test_the_tiny_model_that_fits_the_processor_is_trained(tmp_path, capsys, name, model):
    folder = save_processor(name, tmp_path / "processor")
    shutil.copy(DATA / "cat.jpg", tmp_path)
    data = write_chats(tmp_path, ("<image>Who?", "A cat.", ["cat.jpg"]), ("Hello", "Hi"))
    arguments = ["--processor", str(folder), "--data", str(data), "--output", str(tmp_path / "out"), "--steps", "6"]
    assert main(["demo", *arguments]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"{model} with random weights.*6 steps of 2 rows.*loss fell from", text, re.DOTALL)
    assert ("'pixtral' does not fit this processor (ValueError: Image features" in text) == (name == "mistral3")


def test_without_a_model_of_the_processors_class_the_demo_ends_with_a_batch(tmp_path, capsys):
    folder = save_processor("cohere2_vision", tmp_path / "processor")
    assert main(["demo", "--processor", str(folder), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "Not trained: the package has no tiny model for Cohere2VisionProcessor." in text
    assert "pixel_values" in text
    assert "remove_unused_columns=False" in text
    assert "loss" not in text
    assert len(load_from_disk(str(tmp_path / "out"))) == 14


def test_rows_that_would_take_too_long_are_not_trained(tmp_path, capsys, monkeypatch):
    make_image(800, 600).save(tmp_path / "a.jpg")
    data = write_chats(tmp_path, ("<image>Who?", "A cat.", ["a.jpg"]), *[("Hello", "Hi")] * 9)
    arguments = ["demo", "--data", str(data), "--output", str(tmp_path / "out"), "--steps", "2"]
    vocabulary = len(build_processor("qwen2_vl").tokenizer)
    monkeypatch.setattr(tiny_training, "MAX_LOGITS", 100 * vocabulary)
    assert main([*arguments, "--max-pixels", "0"]) == 0
    text = capsys.readouterr().out
    assert "Left out: 1 row(s) of more than 100 tokens" in text
    assert "2 steps of 3 rows" in text  # rows of 27 tokens
    monkeypatch.setattr(tiny_training, "MAX_LOGITS", vocabulary)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "Not trained: every row with a label has more than 1 tokens" in text
    assert "loss" not in text


def test_images_inside_of_typed_parts_are_relative_to_the_file(tmp_path, capsys, monkeypatch):
    question = [{"type": "image", "image": "photos/c.jpg"}, {"type": "text", "text": "Who?"}]
    write_chats(tmp_path / "data", (question, "A cat."))
    (tmp_path / "data" / "photos").mkdir()
    shutil.copy(DATA / "cat.jpg", tmp_path / "data" / "photos" / "c.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--data", "data/chat.jsonl", "--steps", "1"]) == 0
    assert "<image: 77 tokens, 7x11 grid>" in capsys.readouterr().out
    mapped = load_from_disk(str(tmp_path / "demo-output"))
    assert mapped[0]["images"][0]["bytes"] == (DATA / "cat.jpg").read_bytes()


@pytest.mark.parametrize("wrong", [{"picture": "cat.jpg"}, {"images": None}])
def test_placeholders_of_a_row_without_images_are_an_error_that_names_the_row(tmp_path, capsys, wrong):
    shutil.copy(DATA / "cat.jpg", tmp_path)
    data = write_chats(tmp_path, ("<image>Who?", "A cat.", ["cat.jpg"]), ("<image>Who?", "A cat."))
    good, bad = map(json.loads, data.read_text("utf-8").splitlines())
    data.write_text(f"{json.dumps(good)}\n{json.dumps(bad | wrong)}\n", "utf-8")
    assert main(["demo", "--data", str(data), "--output", str(tmp_path / "out"), "--steps", "1"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"error: row 1\b.*'<image>'", error, re.DOTALL)
    assert "Traceback" not in error


def test_literal_placeholders_are_text_where_the_list_of_images_is_empty(tmp_path, capsys):
    data = write_chats(tmp_path, ("What does <image> mean in HTML?", "Nothing.", []))
    assert main(["demo", "--data", str(data), "--output", str(tmp_path / "out"), "--steps", "1"]) == 0
    assert "What does <image> mean in HTML?" in capsys.readouterr().out


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
        ('{"title": "Hello"}', "no column(s) with a chat"),
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


def test_other_layouts_and_media_are_shown_as_they_are(tmp_path, capsys, monkeypatch):
    """A JSON array as LLaVA-Instruct is one, with a video in it."""
    shutil.copy(DATA / "cat.jpg", tmp_path)
    write_video(tmp_path / "clip.mp4", VideoSpec(num_frames=20, width=64, height=64))
    rows = [
        {"id": "0", "image": "cat.jpg", "conversations": turns("<image>\nWho?", "A cat.")},
        {"id": "1", "video": "clip.mp4", "conversations": turns("<video>\nWhat?", "A pattern.")},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(rows, indent=1), "utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--data", "llava.json", "--steps", "1"]) == 0
    text = capsys.readouterr().out
    assert "Read 2 media headers, decoded no media" in text
    assert "<image: 77 tokens, 7x11 grid>" in text
    assert "pixel_values_videos" in text
    assert "1 steps of 2 rows" in text


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def test_plain_text_is_shown_and_trained_whole(tmp_path, capsys, monkeypatch):
    shutil.copy(DATA / "cat.jpg", tmp_path)
    (tmp_path / "text.jsonl").write_text('{"text": "<image>A cat.", "image": "cat.jpg"}\n', "utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--data", "text.jsonl", "--steps", "1"]) == 0
    assert "[[A cat.<|im_end|>]]" in capsys.readouterr().out


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
