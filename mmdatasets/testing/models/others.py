"""Families that share nothing with another: InternVL, MiniCPM-V, GLM-4V, ERNIE-4.5-VL, Kimi K2.5 and LFM2-VL."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel, ProcessorMixin

from mmdatasets.testing.models.registry import (
    HIDDEN_SIZE,
    VISION_SIZE,
    model,
    mrope,
    text_settings,
    token_ids,
    tower_settings,
)


@model("internvl")
def _internvl(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.InternVLConfig(
        text_config=text_settings(processor, "qwen2"),
        vision_config=tower_settings(image_size=processor.image_processor.size["height"], patch_size=14),
        image_token_id=processor.image_token_id,
        image_seq_length=processor.image_seq_length,
        downsample_ratio=0.5,
    )
    return transformers.InternVLForConditionalGeneration(config)


@model("minicpmv4_6")
def _minicpmv4_6(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(
        processor,
        "qwen3_5_text",
        head_dim=16,
        layer_types=["full_attention", "full_attention"],
        rope_parameters=mrope(1, 1, 2, partial_rotary_factor=0.5),
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    )
    config = transformers.MiniCPMV4_6Config(
        text_config=text,
        vision_config=tower_settings(layers=2, image_size=980, patch_size=processor.image_processor.patch_size),
        insert_layer_id=0,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        downsample_mode=processor.image_processor.downsample_mode,
    )
    return transformers.MiniCPMV4_6ForConditionalGeneration(config)


@model("glm4v")
def _glm4v(processor: ProcessorMixin) -> PreTrainedModel:
    images = processor.image_processor
    vision = {
        "depth": 1,
        "hidden_size": VISION_SIZE,
        "num_heads": 2,
        "image_size": 336,
        "patch_size": images.patch_size,
        "temporal_patch_size": images.temporal_patch_size,
        "spatial_merge_size": images.merge_size,
        "out_hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * VISION_SIZE,
    }
    ids = token_ids(
        processor,
        image_token_id="<|image|>",
        video_token_id="<|video|>",
        image_start_token_id="<|begin_of_image|>",
        image_end_token_id="<|end_of_image|>",
        video_start_token_id="<|begin_of_video|>",
        video_end_token_id="<|end_of_video|>",
    )
    text = text_settings(processor, rope_parameters=mrope(2, 1, 1, partial_rotary_factor=0.5))
    config = transformers.Glm4vConfig(text_config=text, vision_config=vision, **ids)
    return transformers.Glm4vForConditionalGeneration(config)


@model("ernie4_5_vl")
def _ernie4_5_vl(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(
        processor,
        moe_intermediate_size=[32, 16],  # experts for text, experts for vision
        moe_k=2,
        moe_num_experts=4,
        moe_num_shared_experts=1,
        rope_parameters=mrope(3, 3, 2),
    )
    vision = {
        "depth": 1,
        "hidden_size": VISION_SIZE,
        "num_heads": 2,
        "intermediate_size": 2 * VISION_SIZE,
        "patch_size": processor.image_processor.patch_size,
    }
    config = transformers.Ernie4_5_VLMoeConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        image_start_token_id=processor.image_start_token_id,
        image_end_token_id=processor.image_end_token_id,
        video_start_token_id=processor.video_start_token_id,
        video_end_token_id=processor.video_end_token_id,
    )
    return transformers.Ernie4_5_VLMoeForConditionalGeneration(config)


@model("kimi_k25")
def _kimi_k25(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(
        processor,
        "deepseek_v3",
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        moe_intermediate_size=32,
        n_shared_experts=1,
    )
    ids = token_ids(processor, vision_start_token_id="<|media_begin|>", vision_end_token_id="<|media_end|>")
    config = transformers.Kimi_K25Config(
        text_config=text,
        vision_config=tower_settings(pos_emb_height=16, pos_emb_width=16),
        projection_hidden_size=VISION_SIZE,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        **ids,
    )
    return transformers.Kimi_K25ForConditionalGeneration(config)


@model("lfm2_vl")
def _lfm2_vl(processor: ProcessorMixin) -> PreTrainedModel:
    images = processor.image_processor
    config = transformers.Lfm2VlConfig(
        vision_config=tower_settings(
            "siglip2_vision_model",
            num_patches=images.max_num_patches,
            patch_size=images.encoder_patch_size,
            vision_use_head=False,
        ),
        text_config=text_settings(processor, "lfm2", layer_types=["conv", "full_attention"], block_multiple_of=16),
        image_token_id=processor.image_token_id,
        projector_hidden_size=VISION_SIZE,
        downsample_factor=images.downsample_factor,
    )
    return transformers.Lfm2VlForConditionalGeneration(config)
