"""LLaVA 1.5, LLaVA-NeXT, LLaVA-NeXT-Video and Video-LLaVA: a CLIP tower, whose last layer but one is read."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel, ProcessorMixin

from mmdatasets.testing.models.registry import model, text_settings, tower_settings


def _settings(processor: ProcessorMixin, decoder: str = "llama") -> dict[str, object]:
    tower = tower_settings(
        "clip_vision_model",
        layers=2,
        image_size=processor.image_processor.crop_size["height"],
        patch_size=processor.patch_size,
        projection_dim=32,
    )
    return {
        "vision_config": tower,
        "text_config": text_settings(processor, decoder),
        "image_token_index": processor.image_token_id,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": processor.vision_feature_select_strategy,
    }


@model("llava")
def _llava(processor: ProcessorMixin) -> PreTrainedModel:
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**_settings(processor)))


@model("llava_next")
def _llava_next(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.LlavaNextConfig(
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints, **_settings(processor, "mistral")
    )
    return transformers.LlavaNextForConditionalGeneration(config)


@model("llava_next_video")
def _llava_next_video(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.LlavaNextVideoConfig(
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
        video_token_index=processor.video_token_id,
        **_settings(processor),
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config)


@model("video_llava")
def _video_llava(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.VideoLlavaConfig(video_token_index=processor.video_token_id, **_settings(processor))
    return transformers.VideoLlavaForConditionalGeneration(config)
