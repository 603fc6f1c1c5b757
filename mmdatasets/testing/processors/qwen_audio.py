"""Qwen2-Audio, Qwen2.5-Omni and Qwen3-Omni."""

from __future__ import annotations

import transformers
from transformers import ProcessorMixin

from mmdatasets.testing.processors.qwen import QWEN3_PLAIN_TOKENS, qwen_tokenizer
from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer

_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _whisper(longest_s: int) -> object:
    """Whisper's features at 16 kHz: 128 mel bins, 100 frames a second."""
    return transformers.WhisperFeatureExtractor(
        feature_size=128, n_fft=400, chunk_length=longest_s, return_attention_mask=True
    )


def _pixels() -> dict[str, int]:
    return {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}


@family("qwen2_audio", checkpoint="Qwen/Qwen2-Audio-7B-Instruct", modalities=("audio",), plugin="qwen2_audio")
def _qwen2_audio() -> ProcessorMixin:
    tokenizer = build_tokenizer(
        (*_CHATML_TOKENS, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    return transformers.Qwen2AudioProcessor(
        feature_extractor=_whisper(30), tokenizer=tokenizer, chat_template=read_chat_template("qwen2_audio")
    )


@family("qwen2_5_omni", checkpoint="Qwen/Qwen2.5-Omni-7B", modalities=("image", "video", "audio"), plugin="qwen2_omni")
def _qwen2_5_omni() -> ProcessorMixin:
    named = {
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    tokenizer = build_tokenizer(_CHATML_TOKENS, named_tokens=named, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    return transformers.Qwen2_5OmniProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=_pixels()),
        video_processor=transformers.Qwen2VLVideoProcessor(size=_pixels()),
        feature_extractor=_whisper(300),
        tokenizer=tokenizer,
        chat_template=read_chat_template("qwen2_5_omni"),
    )


@family(
    "qwen3_omni_moe",
    checkpoint="Qwen/Qwen3-Omni-30B-A3B-Instruct",
    modalities=("image", "video", "audio"),
    plugin="qwen2_omni",
)
def _qwen3_omni_moe() -> ProcessorMixin:
    named = {
        "image_token": "<|image_pad|>",
        "audio_token": "<|audio_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }
    settings = {"patch_size": 16, **normalisation("half")}
    return transformers.Qwen3OmniMoeProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=_pixels(), **settings),
        video_processor=transformers.Qwen2VLVideoProcessor(size=_pixels(), **settings),
        feature_extractor=_whisper(300),
        tokenizer=qwen_tokenizer(QWEN3_PLAIN_TOKENS, named_tokens=named, model_max_length=262144),
        chat_template=read_chat_template("qwen3_omni_moe"),
    )
