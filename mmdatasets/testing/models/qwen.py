"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel, ProcessorMixin

from mmdatasets.testing.models.registry import HIDDEN_SIZE, VISION_SIZE, model, mrope, text_settings, token_ids


def patch_settings(processor: ProcessorMixin) -> dict[str, object]:
    """What a Qwen vision tower must share with the image processor."""
    images = processor.image_processor
    return {
        "num_heads": 2,
        "patch_size": images.patch_size,
        "temporal_patch_size": images.temporal_patch_size,
        "spatial_merge_size": images.merge_size,
    }


def qwen2_5_tower(processor: ProcessorMixin) -> dict[str, object]:
    """Two blocks, one with windows and one without."""
    return {
        "depth": 2,
        "fullatt_block_indexes": [1],
        "window_size": 112,
        "tokens_per_second": 2,
        "hidden_size": VISION_SIZE,
        "intermediate_size": 2 * VISION_SIZE,
        "out_hidden_size": HIDDEN_SIZE,
        **patch_settings(processor),
    }


def qwen3_tower(processor: ProcessorMixin) -> dict[str, object]:
    """Two blocks, the first of which also reaches the decoder directly."""
    return {
        "depth": 2,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 48 * 48,
        "hidden_size": VISION_SIZE,
        "intermediate_size": 2 * VISION_SIZE,
        "out_hidden_size": HIDDEN_SIZE,
        **patch_settings(processor),
    }


def _token_ids(processor: ProcessorMixin) -> dict[str, int]:
    return token_ids(
        processor,
        image_token_id=processor.image_token,
        video_token_id=processor.video_token,
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


@model("qwen2_vl")
def _qwen2_vl(processor: ProcessorMixin) -> PreTrainedModel:
    vision = {"depth": 1, "embed_dim": VISION_SIZE, "hidden_size": HIDDEN_SIZE, **patch_settings(processor)}
    text = text_settings(processor, rope_parameters=mrope(2, 3, 3))
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **_token_ids(processor))
    return transformers.Qwen2VLForConditionalGeneration(config)


@model("qwen2_5_vl")
def _qwen2_5_vl(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(processor, rope_parameters=mrope(2, 3, 3))
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=qwen2_5_tower(processor), **_token_ids(processor)
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


@model("qwen3_vl")
def _qwen3_vl(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(processor, head_dim=16, rope_parameters=mrope(2, 3, 3, mrope_interleaved=True))
    config = transformers.Qwen3VLConfig(
        text_config=text, vision_config=qwen3_tower(processor), **_token_ids(processor)
    )
    return transformers.Qwen3VLForConditionalGeneration(config)
