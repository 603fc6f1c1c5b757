"""Models of families without a plugin of their own."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel, ProcessorMixin

from mmdatasets.testing.models.qwen import qwen3_tower
from mmdatasets.testing.models.registry import (
    HIDDEN_SIZE,
    VISION_SIZE,
    model,
    mrope,
    text_settings,
    token_ids,
    tower_settings,
)


def _idefics_settings(processor: ProcessorMixin, patch_size: int, scale_factor: int) -> dict[str, object]:
    size = processor.image_processor.max_image_size["longest_edge"]
    return {
        "vision_config": tower_settings(image_size=size, patch_size=patch_size),
        "text_config": text_settings(processor, "llama"),
        "image_token_id": processor.image_token_id,
        "scale_factor": scale_factor,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }


@model("smolvlm")
def _smolvlm(processor: ProcessorMixin) -> PreTrainedModel:
    return transformers.SmolVLMForConditionalGeneration(
        transformers.SmolVLMConfig(**_idefics_settings(processor, 14, 3))
    )


@model("idefics3")
def _idefics3(processor: ProcessorMixin) -> PreTrainedModel:
    return transformers.Idefics3ForConditionalGeneration(
        transformers.Idefics3Config(**_idefics_settings(processor, 14, 2))
    )


@model("llava_onevision")
def _llava_onevision(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.LlavaOnevisionConfig(
        vision_config=tower_settings(
            "siglip_vision_model",
            image_size=processor.image_processor.size["height"],
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=text_settings(processor, "qwen2"),
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        vision_aspect_ratio=processor.vision_aspect_ratio,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


@model("aya_vision")
def _aya_vision(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.AyaVisionConfig(
        vision_config=tower_settings(
            "siglip_vision_model", image_size=processor.img_size, patch_size=14, vision_use_head=False
        ),
        text_config=text_settings(processor, "cohere2", head_dim=16),
        image_token_index=processor.image_token_id,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        alignment_intermediate_size=2 * HIDDEN_SIZE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return transformers.AyaVisionForConditionalGeneration(config)


@model("glm46v")
def _glm46v(processor: ProcessorMixin) -> PreTrainedModel:
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
    text = text_settings(processor, "glm4v_text", rope_parameters=mrope(2, 1, 1, partial_rotary_factor=0.5))
    config = transformers.Glm46VConfig(text_config=text, vision_config={"model_type": "glm4v_vision", **vision}, **ids)
    return transformers.Glm46VForConditionalGeneration(config)


@model("lighton_ocr")
def _lighton_ocr(processor: ProcessorMixin) -> PreTrainedModel:
    longest_edge = processor.image_processor.size["longest_edge"]
    config = transformers.LightOnOcrConfig(
        vision_config=tower_settings("pixtral", head_dim=16, image_size=longest_edge, patch_size=14),
        text_config=text_settings(processor, "qwen3", head_dim=16),
        image_token_id=processor.image_token_id,
        spatial_merge_size=2,
    )
    return transformers.LightOnOcrForConditionalGeneration(config)


@model("qwen3_5")
def _qwen3_5(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(
        processor,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        rope_parameters=mrope(1, 1, 2, partial_rotary_factor=0.5, mrope_interleaved=True),
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
    )
    tower = qwen3_tower(processor)
    tower.pop("deepstack_visual_indexes")
    ids = token_ids(
        processor,
        image_token_id=processor.image_token,
        video_token_id=processor.video_token,
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )
    config = transformers.Qwen3_5Config(text_config=text, vision_config=tower, **ids)
    return transformers.Qwen3_5ForConditionalGeneration(config)


@model("audioflamingo3")
def _audioflamingo3(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.AudioFlamingo3Config(
        audio_config={
            "hidden_size": VISION_SIZE,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 2 * VISION_SIZE,
        },
        text_config=text_settings(processor, "qwen2"),
        audio_token_id=processor.audio_token_id,
    )
    return transformers.AudioFlamingo3ForConditionalGeneration(config)
