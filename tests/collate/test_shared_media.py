"""Media that several rows of a batch share is decoded once, and the batch is the same as without."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms import media as media_module

DECODERS = ("decode_image", "decode_frames", "decode_audio")


@pytest.fixture
def decodes(monkeypatch):
    """Counts the real decoders' calls."""
    counts = Counter()

    def counted(name, real):
        def decode(*args, **kwargs):
            counts[name] += 1
            return real(*args, **kwargs)

        return decode

    for name in DECODERS:
        monkeypatch.setattr(media_module, name, counted(name, getattr(media_module, name)))
    return counts


def rows_of(columns):
    return [{name: column[index] for name, column in columns.items()} for index in range(len(columns["input_ids"]))]


def chat(text):
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


def same_as_alone(plugin, rows) -> None:
    """The batch's media tensors are those of its rows, one after another."""
    together = plugin.collator()(rows)
    alone = [plugin.collator()([row]) for row in rows]
    for name in ("pixel_values", "pixel_values_videos", "input_features"):
        parts = [batch[name] for batch in alone if name in batch]
        if parts:
            assert torch.equal(together[name], torch.cat(parts)), name


def test_images(decodes, image_file) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"))
    shared, other = str(image_file(90, 60)), str(image_file(60, 60))
    images = [[shared], [shared, other], [{"path": shared, "bytes": None}], [image_file(90, 60)]]
    rows = rows_of(plugin.transform({"messages": [chat("<image>" * len(own)) for own in images], "images": images}))
    assert not decodes
    plugin.collator()(rows)
    assert decodes == {"decode_image": 2}
    plugin.collator()(rows)  # nothing is kept beyond the batch
    assert decodes == {"decode_image": 4}
    same_as_alone(plugin, rows)


def test_images_that_the_dataset_has_as_bytes(decodes, image_file) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"))
    data = image_file(90, 60).read_bytes()
    images = [[{"bytes": bytes(bytearray(data)), "path": None}] for _ in range(3)]
    rows = rows_of(plugin.transform({"messages": [chat("<image>")] * 3, "images": images}))
    plugin.collator()(rows)
    assert decodes == {"decode_image": 1}


def test_videos(decodes, tmp_path) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(video_fps=2.0))
    clip = str(write_video(tmp_path / "a.mp4", VideoSpec(num_frames=40, width=96, height=64)))
    part = {"path": clip, "indices": [3, 9]}
    videos = [[clip], [clip, clip], [part], [dict(part)], [{"path": clip, "indices": [3, 10]}]]
    rows = rows_of(plugin.transform({"messages": [chat("<video>" * len(own)) for own in videos], "videos": videos}))
    decodes.clear()
    plugin.collator()(rows)
    assert decodes == {"decode_frames": 3}  # the whole clip, and two choices of its frames
    same_as_alone(plugin, rows)


def test_lists_of_frames(decodes, image_file) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"))
    frames = [str(image_file(96, 64, seed)) for seed in range(4)]
    videos = [[list(frames)], [list(frames)], [frames[::-1]]]
    rows = rows_of(plugin.transform({"messages": [chat("<video>")] * 3, "videos": videos}))
    plugin.collator()(rows)
    assert decodes["decode_frames"] == 2
    same_as_alone(plugin, rows)


def test_audio(decodes, tmp_path) -> None:
    plugin = auto_plugin(build_processor("qwen2_audio"), options=MediaOptions(long_audio="chunk"))
    short = str(write_audio(tmp_path / "short.wav", sampling_rate=16_000, duration_s=1.0))
    long = str(write_audio(tmp_path / "long.wav", sampling_rate=16_000, duration_s=40.0))
    audios = [[short], [short], [long], [long]]
    rows = rows_of(plugin.transform({"messages": [chat("<audio>")] * 4, "audios": audios}))
    decodes.clear()
    plugin.collator()(rows)
    assert decodes == {"decode_audio": 3}  # the short one, and two chunks of the long one
    same_as_alone(plugin, rows)
