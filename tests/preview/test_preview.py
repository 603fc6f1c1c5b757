"""Previews of rows and batches of every kind."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MMDatasetsError
from mmdatasets.testing import build_processor, make_image
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.video import VideoSpec, read_frame_number, write_video

MAX_BYTES = 300_000
CHAT = [{"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": "A cat."}]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(image_max_pixels=224 * 224))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return str(write_image(tmp_path_factory.mktemp("photos") / "photo.jpg", 320, 240))


@pytest.fixture(scope="module")
def mapped(plugin, photo):
    source = Dataset.from_dict({"messages": [CHAT, [*CHAT, *CHAT[1:]], CHAT[1:]], "images": [[photo], [photo], []]})
    return source.map(plugin.transform, batched=True, features=plugin.features(source.features))


def only(preview):
    (row,) = preview.facts.rows
    (sequence,) = row.sequences
    return row, sequence


def test_a_row_mapped_or_not(plugin, photo, mapped):
    expected = plugin.preview(mapped[0])
    row, sequence = only(expected)
    ids, labels, (info,) = (mapped[0][name] for name in ("input_ids", "labels", "media_info"))
    assert (sequence.num_tokens, sequence.num_trained) == (len(ids), sum(label != -100 for label in labels))
    assert (sequence.num_media, row.media[0].num_tokens) == (info["num_tokens"],) * 2
    assert row.media[0].picture.startswith("data:image/webp;base64,")
    _, rows, columns = plugin.collator()([mapped[0]])["image_grid_thw"][0].tolist()
    assert row.media[0].label == f"image: {info['num_tokens']} tokens, {rows // 2}x{columns // 2} grid"
    for form in (
        {"messages": CHAT, "images": [photo]},
        mapped.with_format("torch")[0],
        mapped.with_format("numpy")[0],
    ):
        assert plugin.preview(form).facts == expected.facts


def test_several_rows(plugin, mapped):
    by_list = plugin.preview([mapped[0], mapped[1], mapped[2]])
    assert [row.name for row in by_list.facts.rows] == ["row 0", "row 1", "row 2"]
    for form in (mapped[:3], mapped.with_format("torch")[:3], mapped.with_format("arrow")[:3]):
        assert plugin.preview(form).facts == by_list.facts
    source = {"messages": [CHAT[1:], CHAT[1:]], "images": [[], []]}
    assert len(plugin.preview(source).facts.rows) == 2
    many = plugin.preview([mapped[2]] * 20).facts
    assert (len(many.rows), many.omitted_rows) == (16, 4)


def test_a_batch(plugin, mapped):
    batch = plugin.collator()([mapped[0], mapped[2]])
    facts = plugin.preview(batch).facts
    assert [tensor.name for tensor in facts.tensors] == list(batch)
    sizes = {tensor.name: tensor.num_bytes for tensor in facts.tensors}
    assert sizes["pixel_values"] == batch["pixel_values"].numel() * 4
    assert facts.padding == (batch["attention_mask"] == 0).double().mean().item()
    for row, mask, labels in zip(facts.rows, batch["attention_mask"], batch["labels"], strict=True):
        (sequence,) = row.sequences
        assert sequence.num_tokens == int(mask.sum())
        assert sequence.num_padding == int((mask == 0).sum())
        assert sequence.num_trained == int((labels != -100).sum())
    html = plugin.preview(batch).html
    assert "pixel_values" in html
    assert f"padding: {facts.rows[1].sequences[0].num_padding}" in html


def test_preferences(plugin, photo):
    row = {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "No idea at all."}]}
    previewed = plugin.preview({**row, "images": [photo]})
    (made,) = previewed.facts.rows
    chosen, rejected = made.sequences
    assert (chosen.name, rejected.name) == ("chosen", "rejected")
    assert chosen.num_media == rejected.num_media == made.media[0].num_tokens
    for sequence in (chosen, rejected):
        assert [run.media for run in sequence.runs if run.kind == "media"] == [0]
    assert previewed.html.count("<img") == 1
    columns = plugin.preference_transform({name: [value] for name, value in {**row, "images": [photo]}.items()})
    mapped = {name: column[0] for name, column in columns.items()}
    assert plugin.preview(mapped).facts == previewed.facts
    batch = plugin.preview(plugin.preference_collator("dpo")([mapped])).facts
    assert [one.sequences[0].num_trained for one in batch.rows] == [chosen.num_trained, rejected.num_trained]


def test_a_packed_row(plugin, mapped):
    packed = plugin.packer(max_length=1000).pack(mapped)
    (row,) = plugin.preview(packed[0]).facts.rows
    lengths = packed[0]["sequence_lengths"]
    assert len(lengths) > 1
    assert [sequence.num_tokens for sequence in row.sequences] == lengths
    shown = [(sequence.name, run.media) for sequence in row.sequences for run in sequence.runs if run.kind == "media"]
    assert len(shown) == len(row.media) == 2
    assert {media for _, media in shown} == {0, 1}


def test_media_that_cannot_be_read_says_so_in_its_place(plugin, mapped, photo, tmp_path):
    lost, cut = dict(mapped[0]), dict(mapped[0])
    lost["images"] = [{"path": "lost <b>.jpg", "bytes": None}]
    broken = tmp_path / "cut.jpg"
    broken.write_bytes(Path(photo).read_bytes()[:3000])
    cut["images"] = [{"path": str(broken), "bytes": None}]
    lacking = {**mapped[0], "images": []}
    for row, words in ((lost, "no such file"), (cut, "truncated or damaged"), (lacking, "the row has no such item")):
        preview = plugin.preview(row)
        assert words in preview.facts.rows[0].media[0].error
        assert words in preview.html
        assert words in str(preview)
        assert "<b>" not in re.sub(r'<b title="[\d ]+">', "", preview.html)


def test_a_row_of_twenty_photos_is_light(plugin, tmp_path):
    rng = np.random.default_rng(0)
    images = [str(tmp_path / f"{number}.png") for number in range(20)]
    for path in images:  # noise, which compresses worst
        PIL.Image.fromarray(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(path)
    row = {"messages": [{"role": "user", "content": "<image>" * 20}, CHAT[1]], "images": images}
    preview = plugin.preview(row)
    assert all(item.picture for item in preview.facts.rows[0].media)
    assert len(preview.html.encode()) < MAX_BYTES


def test_a_video_of_64_frames(tmp_path):
    plugin = auto_plugin(
        build_processor("qwen2_5_omni"),
        options=MediaOptions(video_sampling="uniform", video_num_frames=64, video_max_pixels=224 * 224),
    )
    spec = VideoSpec(num_frames=100, width=320, height=240, audio_codec="aac")
    clip = str(write_video(tmp_path / "clip.mp4", spec))
    chat = [{"role": "user", "content": "<video>What?"}, CHAT[1]]
    made = {name: column[0] for name, column in plugin.transform({"messages": [chat], "videos": [[clip]]}).items()}
    preview = plugin.preview(made)
    (video,) = preview.facts.rows[0].media
    (info,) = made["media_info"]
    assert (video.num_frames, video.num_source_frames, len(video.frames)) == (64, 100, 8)
    times = dict(zip(info["frame_indices"], info["timestamps_s"], strict=True))
    assert {frame.index: frame.timestamp_s for frame in video.frames}.items() <= times.items()
    assert [video.frames[0].index, video.frames[-1].index] == [info["frame_indices"][0], info["frame_indices"][-1]]
    assert [_number_in(frame.picture) for frame in video.frames] == [frame.index for frame in video.frames]
    html = preview.html
    assert "64 of 100 frames" in html
    assert "(8 are shown)" in html
    assert len(html.encode()) < MAX_BYTES


def _number_in(uri):
    """The number that a frame of a synthetic video carries in its pixels."""
    image = PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return read_frame_number(np.array(image.resize((320, 240))))


def test_sound(tmp_path):
    plugin = auto_plugin(build_processor("qwen2_5_omni"), options=MediaOptions(use_audio_in_video=True))
    sound = str(write_audio(tmp_path / "tone.wav", sampling_rate=44_100, duration_s=1.5, num_channels=2))
    clip = str(write_video(tmp_path / "clip.mp4", VideoSpec(num_frames=50, width=160, height=120, audio_codec="aac")))
    chat = [{"role": "user", "content": "<audio>And <video>?"}, CHAT[1]]
    audio, video = plugin.preview({"messages": chat, "audios": [sound], "videos": [clip]}).facts.rows[0].media
    assert audio.wave.duration_s == audio.duration_s == 1.5
    heights = [float(y) for y in re.findall(r",(-?[\d.]+)", audio.wave.path)]
    assert len(heights) == 2 * audio.wave.width
    assert min(heights) < -0.1
    assert max(heights) > 0.1
    assert video.wave.duration_s == pytest.approx(2.0, abs=0.1)
    assert audio.label == f"audio: {audio.num_tokens} tokens"


def test_json_text_and_file(plugin, mapped, tmp_path):
    preview = plugin.preview(mapped[0])
    said = json.loads(json.dumps(preview.facts.to_json()))
    (sequence,) = said["rows"][0]["sequences"]
    labels = mapped[0]["labels"]
    trained = [place for turn in sequence["turns"] for start, end in turn["trained"] for place in range(start, end)]
    assert trained == [place for place, label in enumerate(labels) if label != -100]
    assert "data:image" not in json.dumps(said)
    assert sequence["turns"][-1]["text"] == "A cat."
    text = str(preview)
    assert "[[A cat.<|im_end|>" in text
    assert preview.facts.rows[0].media[0].label in text
    assert repr(preview) == text
    saved = preview.save(tmp_path / "new" / "row.html")
    assert saved.read_text("utf-8") == preview.html
    assert preview._repr_html_() in preview.html
    with pytest.raises(MMDatasetsError, match="cannot write the page"):
        preview.save(tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("row", "cannot preview str"),
        ([], "a list of 0 values"),
        ([1, 2], "a list of 2 values"),
        ({}, "it has no columns"),
        ({"input_ids": [1, 2], "labels": [-100]}, "1 labels for 2 tokens"),
        ({"input_ids": torch.zeros(3, 2, 2)}, "no tensor 'input_ids'"),
        ({"words": ["a"]}, "words"),
    ],
)
def test_what_is_no_row_is_refused(plugin, given, words):
    with pytest.raises(MMDatasetsError, match=re.escape(words)):
        plugin.preview(given)


def test_a_row_that_cannot_be_mapped_is_named(plugin):
    rows = [{"messages": CHAT[1:], "images": []}, {"messages": CHAT, "images": ["a.jpg", "b.jpg"]}]
    with pytest.raises(MMDatasetsError, match=r"^row 1"):
        plugin.preview(rows)
    with pytest.raises(MMDatasetsError, match=r"^row 12"):
        plugin.preview(rows, names=["row 11", "row 12"])


def test_a_picture_in_memory_and_a_materialised_row(plugin, mapped):
    row, _ = only(plugin.preview({"messages": CHAT, "images": [make_image(300, 200)]}))
    assert row.media[0].picture
    assert (row.media[0].width, row.media[0].height) == (300, 200)
    stored = mapped.map(plugin.materialise, batched=True, features=plugin.materialised_features(mapped.features))
    before, after = (only(plugin.preview(rows[0]))[0].media[0] for rows in (mapped, stored))
    assert after.picture
    assert (after.layout, after.num_tokens) == (before.layout, before.num_tokens)
