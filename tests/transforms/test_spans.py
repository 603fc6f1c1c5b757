"""Media spans: they begin and end with the control tokens that the template writes around an item."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdatasets import auto_plugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.processors import build_processor

IMAGES = {
    "qwen2_vl": ("<|vision_start|>", "<|vision_end|>"),
    "qwen3_omni_moe": ("<|vision_start|>", "<|vision_end|>"),  # others than Qwen2.5-Omni's
    "qwen2_5_omni": ("<|vision_bos|>", "<|vision_eos|>"),
    "glm4v": ("<|begin_of_image|>", "<|end_of_image|>"),
    "ernie4_5_vl": ("<|IMAGE_START|>", "<|IMAGE_END|>"),  # behind "Picture 1:", which is text
    "kimi_k25": ("<|media_begin|>image<|media_content|>", "<|media_end|>"),
    "hunyuan_vl": ("<img>", "</img>"),
    "llava_next": ("<image>", "<image>"),  # it writes none
}
AUDIO = {
    "qwen2_audio": ("<|audio_bos|>", "<|audio_eos|>"),  # behind "Audio 1:"
    "qwen3_omni_moe": ("<|audio_start|>", "<|audio_end|>"),
}


def spans_of(name: str, kind: str, files: list[str]) -> list[str]:
    """The text of each span of a row."""
    processor = build_processor(name)
    chat = [{"role": "user", "content": f"<{kind}>and<{kind}>?"}, {"role": "assistant", "content": "This."}]
    row = auto_plugin(processor).transform({"messages": [chat], f"{kind}s": [files]})
    ids, labels = row["input_ids"][0], row["labels"][0]
    for record in row["media_info"][0]:
        assert set(labels[record["start"] : record["end"]]) == {-100}
    return [processor.tokenizer.decode(ids[one["start"] : one["end"]]) for one in row["media_info"][0]]


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, image_file) -> None:
    before, after = IMAGES[name]
    for span in spans_of(name, "image", [str(image_file(90, 60)), str(image_file(60, 60))]):
        assert span.startswith(before)
        assert span.endswith(after)
        assert span.count(after) == span.count(before)


@pytest.mark.parametrize("name", AUDIO)
def test_audio(name: str, tmp_path: Path) -> None:
    before, after = AUDIO[name]
    files = [str(write_audio(tmp_path / f"{seed}.wav", 16_000, 0.5 + seed, seed=seed)) for seed in range(2)]
    for span in spans_of(name, "audio", files):
        assert span.startswith(before)
        assert span.endswith(after)
        assert span.count(before) == span.count(after) == 1
