"""Pixtral and Mistral Small 3.1."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel, ProcessorMixin

from mmdatasets.testing.models.registry import model, text_settings, tower_settings


def _tower(processor: ProcessorMixin) -> dict[str, object]:
    longest_edge = processor.image_processor.size["longest_edge"]
    return tower_settings("pixtral", head_dim=16, image_size=longest_edge, patch_size=processor.patch_size)


@model("pixtral")
def _pixtral(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.LlavaConfig(
        vision_config=_tower(processor),
        text_config=text_settings(processor, "mistral", head_dim=16),
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return transformers.LlavaForConditionalGeneration(config)


@model("mistral3")
def _mistral3(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.Mistral3Config(
        vision_config=_tower(processor),
        text_config=text_settings(processor, "mistral", head_dim=16),
        image_token_index=processor.image_token_id,
        spatial_merge_size=processor.spatial_merge_size,
    )
    return transformers.Mistral3ForConditionalGeneration(config)
