"""Tiny random-weight models that take what the processors of `mmdatasets.testing.processors` return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

ModelBuilder: TypeAlias = Callable[[ProcessorMixin], PreTrainedModel]

_HIDDEN_SIZE = 64
_VISION_SIZE = 32


def build_model(name: str, processor: ProcessorMixin, *, seed: int = 0) -> PreTrainedModel:
    """Builds a tiny model of a family, in float32, on the CPU, in evaluation mode.

    Vocabulary size, patch sizes and token ids are read off the processor. The same arguments give the same weights;
    the global random state stays as it was.

    Args:
        name: One of `mmdatasets.testing.list_processors()`.
        processor: The family's processor, whose output the model is to take.
        seed: Determines the weights.

    Returns:
        A model with fewer than a million parameters.

    Raises:
        KeyError: No builder is registered under `name`.
    """
    if name not in _BUILDERS:
        raise KeyError(f"no model {name!r}: expected one of {', '.join(list_models())}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _BUILDERS[name](processor)
    return model.eval()


def list_models() -> list[str]:
    """Returns the names that `build_model` knows, sorted."""
    return sorted(_BUILDERS)


def _text_settings(processor: ProcessorMixin, *, interleaved: bool = False) -> dict[str, object]:
    """A two-layer decoder with four heads of 16, whose rotary dimensions are shared among time, height and width."""
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    if interleaved:
        rope["mrope_interleaved"] = True
    return {
        "vocab_size": len(processor.tokenizer),
        "bos_token_id": processor.tokenizer.bos_token_id,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "hidden_size": _HIDDEN_SIZE,
        "intermediate_size": 2 * _HIDDEN_SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "rope_parameters": rope,
    }


def _vision_settings(processor: ProcessorMixin) -> dict[str, object]:
    """What the vision tower must share with the image processor."""
    images = processor.image_processor
    return {
        "num_heads": 2,
        "patch_size": images.patch_size,
        "temporal_patch_size": images.temporal_patch_size,
        "spatial_merge_size": images.merge_size,
    }


def _token_ids(processor: ProcessorMixin) -> dict[str, int]:
    to_id = processor.tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": to_id(processor.image_token),
        "video_token_id": to_id(processor.video_token),
        "vision_start_token_id": to_id("<|vision_start|>"),
        "vision_end_token_id": to_id("<|vision_end|>"),
    }


def _qwen2_vl(processor: ProcessorMixin) -> PreTrainedModel:
    vision = {"depth": 1, "embed_dim": _VISION_SIZE, "hidden_size": _HIDDEN_SIZE, **_vision_settings(processor)}
    config = Qwen2VLConfig(text_config=_text_settings(processor), vision_config=vision, **_token_ids(processor))
    return Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl(processor: ProcessorMixin) -> PreTrainedModel:
    vision = {
        "depth": 2,  # one block with windows, one without
        "fullatt_block_indexes": [1],
        "window_size": 112,
        "tokens_per_second": 2,
        "hidden_size": _VISION_SIZE,
        "intermediate_size": 2 * _VISION_SIZE,
        "out_hidden_size": _HIDDEN_SIZE,
        **_vision_settings(processor),
    }
    config = Qwen2_5_VLConfig(text_config=_text_settings(processor), vision_config=vision, **_token_ids(processor))
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl(processor: ProcessorMixin) -> PreTrainedModel:
    text = {**_text_settings(processor, interleaved=True), "head_dim": 16}
    vision = {
        "depth": 2,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 48 * 48,
        "hidden_size": _VISION_SIZE,
        "intermediate_size": 2 * _VISION_SIZE,
        "out_hidden_size": _HIDDEN_SIZE,
        **_vision_settings(processor),
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_token_ids(processor))
    return Qwen3VLForConditionalGeneration(config)


_BUILDERS: Mapping[str, ModelBuilder] = MappingProxyType(
    {
        "qwen2_vl": _qwen2_vl,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
    }
)
