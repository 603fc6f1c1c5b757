"""LLaVA 1.5, LLaVA-NeXT, LLaVA-NeXT-Video and Video-LLaVA."""

from __future__ import annotations

import transformers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer

_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def _tokenizer(padding_side: str = "right", **named_tokens: str) -> PreTrainedTokenizerFast:
    return build_tokenizer(
        ["<unk>", "<s>", "</s>"],
        named_tokens=named_tokens,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        add_bos=True,
        padding_side=padding_side,
        model_max_length=4096,
    )


def _clip_settings(size: int) -> dict[str, object]:
    """Shortest edge and square crop of a CLIP tower."""
    return {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        **normalisation("clip"),
    }


def _shared_settings() -> dict[str, object]:
    """How each of these processors counts: the tower's patches, its class token being dropped by the model."""
    return {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def _next_images() -> object:
    return transformers.LlavaNextImageProcessor(
        image_grid_pinpoints=[list(size) for size in _PINPOINTS], **_clip_settings(336)
    )


@family("llava", checkpoint="llava-hf/llava-1.5-7b-hf", modalities=("image",), plugin="llava")
def _llava() -> ProcessorMixin:
    return transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(**_clip_settings(336)),
        tokenizer=_tokenizer(image_token="<image>"),
        chat_template=read_chat_template("llava"),
        **_shared_settings(),
    )


@family("llava_next", checkpoint="llava-hf/llava-v1.6-mistral-7b-hf", modalities=("image",), plugin="llava_next")
def _llava_next() -> ProcessorMixin:
    return transformers.LlavaNextProcessor(
        image_processor=_next_images(),
        tokenizer=_tokenizer("left", image_token="<image>"),
        chat_template=read_chat_template("llava_next"),
        **_shared_settings(),
    )


@family(
    "llava_next_video",
    checkpoint="llava-hf/LLaVA-NeXT-Video-7B-hf",
    modalities=("image", "video"),
    plugin="llava_next_video",
)
def _llava_next_video() -> ProcessorMixin:
    return transformers.LlavaNextVideoProcessor(
        image_processor=_next_images(),
        video_processor=transformers.LlavaNextVideoVideoProcessor(**_clip_settings(336)),
        tokenizer=_tokenizer("left", image_token="<image>", video_token="<video>"),
        chat_template=read_chat_template("llava"),
        **_shared_settings(),
    )


@family(
    "video_llava", checkpoint="LanguageBind/Video-LLaVA-7B-hf", modalities=("image", "video"), plugin="video_llava"
)
def _video_llava() -> ProcessorMixin:
    return transformers.VideoLlavaProcessor(
        image_processor=transformers.VideoLlavaImageProcessor(**_clip_settings(224)),
        video_processor=transformers.VideoLlavaVideoProcessor(**_clip_settings(224)),
        tokenizer=_tokenizer("left", image_token="<image>", video_token="<video>"),
        chat_template=read_chat_template("llava"),
        **_shared_settings(),
    )
