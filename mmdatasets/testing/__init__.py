"""What tests and demonstrations need to run without a hub: processors, tiny models, synthetic media."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdatasets.testing.audio import encode_audio, make_audio, write_audio
    from mmdatasets.testing.audio_corpus import audio_corpus
    from mmdatasets.testing.damage import DAMAGE_KINDS, damaged_corpus
    from mmdatasets.testing.media import cut_pixel_data, encode_image, make_image, write_image
    from mmdatasets.testing.models import build_model, list_models
    from mmdatasets.testing.processors import (
        ProcessorSpec,
        build_processor,
        get_spec,
        list_processors,
        read_chat_template,
    )
    from mmdatasets.testing.tokenizer import build_tokenizer
    from mmdatasets.testing.video import VideoSpec, encode_video, make_frame, read_frame_number, write_video
    from mmdatasets.testing.video_corpus import VideoSample, video_samples

# Resolved at first use: whoever only wants an image file does not wait for transformers.
_EXPORTS = {
    "DAMAGE_KINDS": "mmdatasets.testing.damage",
    "ProcessorSpec": "mmdatasets.testing.processors",
    "VideoSample": "mmdatasets.testing.video_corpus",
    "VideoSpec": "mmdatasets.testing.video",
    "audio_corpus": "mmdatasets.testing.audio_corpus",
    "build_model": "mmdatasets.testing.models",
    "build_processor": "mmdatasets.testing.processors",
    "build_tokenizer": "mmdatasets.testing.tokenizer",
    "damaged_corpus": "mmdatasets.testing.damage",
    "cut_pixel_data": "mmdatasets.testing.media",
    "encode_audio": "mmdatasets.testing.audio",
    "encode_image": "mmdatasets.testing.media",
    "encode_video": "mmdatasets.testing.video",
    "get_spec": "mmdatasets.testing.processors",
    "list_models": "mmdatasets.testing.models",
    "list_processors": "mmdatasets.testing.processors",
    "make_audio": "mmdatasets.testing.audio",
    "make_frame": "mmdatasets.testing.video",
    "make_image": "mmdatasets.testing.media",
    "read_chat_template": "mmdatasets.testing.processors",
    "read_frame_number": "mmdatasets.testing.video",
    "video_samples": "mmdatasets.testing.video_corpus",
    "write_audio": "mmdatasets.testing.audio",
    "write_image": "mmdatasets.testing.media",
    "write_video": "mmdatasets.testing.video",
}

__all__ = [
    "DAMAGE_KINDS",
    "ProcessorSpec",
    "VideoSample",
    "VideoSpec",
    "audio_corpus",
    "build_model",
    "build_processor",
    "build_tokenizer",
    "cut_pixel_data",
    "damaged_corpus",
    "encode_audio",
    "encode_image",
    "encode_video",
    "get_spec",
    "list_models",
    "list_processors",
    "make_audio",
    "make_frame",
    "make_image",
    "read_chat_template",
    "read_frame_number",
    "video_samples",
    "write_audio",
    "write_image",
    "write_video",
]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
