"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import transformers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer

QWEN_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Added tokens that are not special: Qwen2.5's, and what Qwen3 put after them.
QWEN2_5_PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
QWEN3_PLAIN_TOKENS = (*QWEN2_5_PLAIN_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>")


def qwen_tokenizer(
    plain_tokens: Sequence[str] = (),
    *,
    more_special_tokens: Sequence[str] = (),
    named_tokens: Mapping[str, str] | None = None,
    padding_side: str = "right",
    model_max_length: int = 32768,
) -> PreTrainedTokenizerFast:
    """The tokenizer of Qwen's vision models, and of those who took it over and added tokens."""
    return build_tokenizer(
        (*QWEN_SPECIAL_TOKENS, *more_special_tokens),
        plain_tokens=plain_tokens,
        named_tokens=named_tokens,
        padding_side=padding_side,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=model_max_length,
    )


@family("qwen2_vl", checkpoint="Qwen/Qwen2-VL-7B-Instruct", modalities=("image", "video"), plugin="qwen2_vl")
def _qwen2_vl() -> ProcessorMixin:
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=dict(pixels)),
        video_processor=transformers.Qwen2VLVideoProcessor(size=dict(pixels)),
        tokenizer=qwen_tokenizer(),
        chat_template=read_chat_template("qwen2_5_vl"),
    )


@family("qwen2_5_vl", checkpoint="Qwen/Qwen2.5-VL-7B-Instruct", modalities=("image", "video"), plugin="qwen2_vl")
def _qwen2_5_vl() -> ProcessorMixin:
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=dict(pixels)),
        video_processor=transformers.Qwen2VLVideoProcessor(size=dict(pixels)),
        tokenizer=qwen_tokenizer(QWEN2_5_PLAIN_TOKENS, model_max_length=131072),
        chat_template=read_chat_template("qwen2_5_vl"),
    )


def _qwen3_processor(template: str) -> ProcessorMixin:
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(
            size={"shortest_edge": 65536, "longest_edge": 16777216}, patch_size=16, **normalisation("half")
        ),
        video_processor=transformers.Qwen3VLVideoProcessor(
            size={"shortest_edge": 4096, "longest_edge": 25165824}, patch_size=16, **normalisation("half")
        ),
        tokenizer=qwen_tokenizer(QWEN3_PLAIN_TOKENS, model_max_length=262144),
        chat_template=read_chat_template(template),
    )


@family("qwen3_vl", checkpoint="Qwen/Qwen3-VL-8B-Instruct", modalities=("image", "video"), plugin="qwen3_vl")
def _qwen3_vl() -> ProcessorMixin:
    return _qwen3_processor("qwen3_vl")


@family("qwen3_5", checkpoint="Qwen/Qwen3.5-2B", modalities=("image", "video"), plugin="qwen3_vl")
def _qwen3_5() -> ProcessorMixin:
    """The model is another, its processor's class Qwen3-VL's."""
    return _qwen3_processor("qwen3_5")
