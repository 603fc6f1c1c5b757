"""Processors built offline: transformers' own classes, a checkpoint's published settings, a small vocabulary.

Sizes, patch sizes and normalisation are those of `preprocessor_config.json` of the checkpoint that a builder names;
token strings and their order those of its `tokenizer_config.json`. Only the ids differ, as the vocabulary is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from types import MappingProxyType
from typing import TypeAlias

from transformers import (
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from mmdatasets.testing.tokenizer import build_tokenizer

ProcessorBuilder: TypeAlias = Callable[[], ProcessorMixin]

_QWEN_SPECIAL_TOKENS = (
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
_QWEN2_5_PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
_QWEN3_PLAIN_TOKENS = (*_QWEN2_5_PLAIN_TOKENS, "<tool_response>", "</tool_response>", "<think>", "</think>")


def read_chat_template(name: str) -> str:
    """Returns the Jinja source of a chat template that ships with this package, such as `"qwen3_vl"`."""
    folder = resources.files("mmdatasets.testing").joinpath("chat_templates")
    return folder.joinpath(f"{name}.jinja").read_text(encoding="utf-8")


def build_processor(name: str) -> ProcessorMixin:
    """Builds the processor of a model family without a hub.

    Args:
        name: One of `list_processors()`.

    Returns:
        A new processor, with tokenizer and chat template.

    Raises:
        KeyError: No builder is registered under `name`.
    """
    if name not in _BUILDERS:
        raise KeyError(f"no processor {name!r}: expected one of {', '.join(list_processors())}")
    return _BUILDERS[name]()


def list_processors() -> list[str]:
    """Returns the names that `build_processor` knows, sorted."""
    return sorted(_BUILDERS)


def _qwen_tokenizer(plain_tokens: tuple[str, ...] = (), model_max_length: int = 32768) -> PreTrainedTokenizerFast:
    return build_tokenizer(
        _QWEN_SPECIAL_TOKENS,
        plain_tokens=plain_tokens,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=model_max_length,
    )


def _qwen2_vl() -> ProcessorMixin:
    """Qwen/Qwen2-VL-7B-Instruct."""
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(pixels)),
        video_processor=Qwen2VLVideoProcessor(size=dict(pixels)),
        tokenizer=_qwen_tokenizer(),
        chat_template=read_chat_template("qwen2_5_vl"),
    )


def _qwen2_5_vl() -> ProcessorMixin:
    """Qwen/Qwen2.5-VL-7B-Instruct."""
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(pixels)),
        video_processor=Qwen2VLVideoProcessor(size=dict(pixels)),
        tokenizer=_qwen_tokenizer(_QWEN2_5_PLAIN_TOKENS, model_max_length=131072),
        chat_template=read_chat_template("qwen2_5_vl"),
    )


def _qwen3_vl() -> ProcessorMixin:
    """Qwen/Qwen3-VL-8B-Instruct."""
    half = [0.5, 0.5, 0.5]
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 65536, "longest_edge": 16777216}, patch_size=16, image_mean=half, image_std=half
        ),
        video_processor=Qwen3VLVideoProcessor(
            size={"shortest_edge": 4096, "longest_edge": 25165824}, patch_size=16, image_mean=half, image_std=half
        ),
        tokenizer=_qwen_tokenizer(_QWEN3_PLAIN_TOKENS, model_max_length=262144),
        chat_template=read_chat_template("qwen3_vl"),
    )


# A further family is one function above and one line here.
_BUILDERS: Mapping[str, ProcessorBuilder] = MappingProxyType(
    {
        "qwen2_vl": _qwen2_vl,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
    }
)
