"""Mapped datasets of photos, a video and a recording, as users make them."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video


def chat(question, answer="This is so."):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_media(folder: Path) -> dict[str, str]:
    """A small and a large image, a clip with sound, and a recording."""
    return {
        "small": str(write_image(folder / "small.png", 84, 56)),
        "large": str(write_image(folder / "large.png", 420, 280)),
        "clip": str(write_video(folder / "clip.mp4", VideoSpec(num_frames=12, width=160, height=112))),
        "speech": str(write_audio(folder / "speech.wav", sampling_rate=16_000, duration_s=1.0)),
    }


def rows_of(media: dict[str, str]) -> Dataset:
    rows = [
        (chat("<image>What is this?"), [media["small"]], [], []),
        (chat("<image><image>Compare these two."), [media["large"], media["small"]], [], []),
        (chat("<video>What happens?"), [], [media["clip"]], []),
        (chat("<audio>What is said?"), [], [], [media["speech"]]),
        (chat("No media at all, and a question that is somewhat longer than the others are?"), [], [], []),
    ]
    names = ("messages", "images", "videos", "audios")
    return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])


def make_plugin(**fields):
    options = MediaOptions(video_sampling="uniform", video_num_frames=4)
    return auto_plugin(build_processor("qwen2_5_omni"), options=options, **fields)


def map_rows(plugin, rows: Dataset) -> Dataset:
    return rows.map(plugin.transform, batched=True, with_indices=True, features=plugin.features(rows.features))
