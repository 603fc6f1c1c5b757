"""MiniCPM's published call on chats with videos and audio, as its model cards make it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms.v2 import functional as tv

from mmdatasets.testing.standins.base import StandInProcessor
from tests.plugins.remote_cases import Image, Row, Video, assert_same, open_items

TAGS = {"image": "(<image>./</image>)", "audio": "(<audio>./</audio>)"}
PLACEHOLDERS = re.compile("<image>|<video>|<audio>")
TEXT = ("input_ids", "attention_mask")
OWN = ("labels", "position_ids")
BOUNDS = ("image_bound", "audio_bounds", "spk_bounds")
OF_THE_CARD = {"use_image_id": False, "max_slice_nums": 2}


def second_by_second(video: Video) -> list[int]:
    """The frames that the model card takes of a video of at most 64 seconds."""
    return list(range(0, video.num_frames, video.rate))


def published_row(processor: StandInProcessor, row: Row) -> Mapping[str, Any]:
    """The processor's own call on one chat; a video is its frames, each an image on a line of its own."""
    opened = open_items(row, second_by_second)
    pictures: list[object] = []
    sounds: list[object] = []
    tags: list[str] = []
    for item, data in opened:
        if isinstance(item, Image):
            pictures.append(data)
            tags.append(TAGS["image"])
        elif isinstance(item, Video):
            pictures += [tv.to_pil_image(frame) for frame in data]
            tags.append("\n".join([TAGS["image"]] * len(data)))
        else:
            sounds.append(data)
            tags.append(TAGS["audio"])
    supply = iter(tags)
    messages = [
        {**message, "content": PLACEHOLDERS.sub(lambda _: next(supply), message["content"])}
        for message in row.messages
    ]
    text = processor.tokenizer.apply_chat_template(messages, tokenize=False)
    settings = OF_THE_CARD if any(isinstance(item, Video) for item in row.items) else {}
    if sounds:
        return processor([text], [pictures], [sounds], chunk_input=True, **settings)
    return processor([text], [pictures], **settings)


def assert_equals_published(processor: StandInProcessor, batch: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """A batch of the collator, padded on either side, equals the published calls on its rows."""
    data = batch["data"]
    theirs = [published_row(processor, row) for row in rows]
    assert set(data) - {*OWN} == set(theirs[0])
    for index, (row, expected) in enumerate(zip(rows, theirs, strict=True)):
        mask = data["attention_mask"][index].bool()
        start = int(mask.int().argmax())
        assert torch.equal(data["input_ids"][index][mask], expected["input_ids"][0].to(torch.int64)), row
        for name in set(expected) - {*TEXT, "audio_features", "audio_feature_lens"}:
            own = data[name][index]
            assert_same(own - start if name in BOUNDS else own, expected[name][0], name)
    if "audio_features" in data:
        assert_same_audio(data, theirs)


def assert_same_audio(data: Mapping[str, Any], theirs: Sequence[Mapping[str, Any]]) -> None:
    """The features of all rows together are those of each row."""
    windows = [window for one in theirs for window in one["audio_features"]]
    if not windows:
        assert data["audio_features"] == data["audio_feature_lens"] == []
        return
    lengths = [list(one["audio_feature_lens"][0]) if len(one["audio_feature_lens"]) else [] for one in theirs]
    assert [list(one) for one in data["audio_feature_lens"]] == lengths
    flat = [int(length) for one in lengths for length in one]
    assert data["audio_features"].shape == (len(windows), 80, max(flat))
    for ours, window, length in zip(data["audio_features"], windows, flat, strict=True):
        assert torch.equal(ours[:, :length], window[:, :length])
        assert not ours[:, length:].any()
