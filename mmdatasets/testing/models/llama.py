"""Llama 3.2 Vision (Mllama) and Llama 4."""

from __future__ import annotations

import transformers
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from mmdatasets.testing.models.registry import VISION_SIZE, model, text_settings, token_ids, tower_settings

_ROPE = {"rope_type": "default", "rope_theta": 5e5}


@model("mllama")
def _mllama(processor: ProcessorMixin) -> PreTrainedModel:
    images = processor.image_processor
    text = text_settings(processor, "mllama_text_model", cross_attention_layers=[1], rope_parameters=dict(_ROPE))
    vision = {
        "hidden_size": VISION_SIZE // 2,  # there is a position table of 4 x 1601 for each of nine aspect ratios
        "intermediate_size": VISION_SIZE,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "attention_heads": 2,
        "intermediate_layers_indices": [0],
        "vision_output_dim": VISION_SIZE,  # the last layer and one in between
        "image_size": images.size["height"],
        "patch_size": 14,
        "max_num_tiles": images.max_image_tiles,
    }
    config = transformers.MllamaConfig(
        text_config=text, vision_config=vision, image_token_index=processor.image_token_id
    )
    built = transformers.MllamaForConditionalGeneration(config)
    for name, parameter in built.named_parameters():
        if name.endswith("gate"):
            nn.init.ones_(parameter)  # gates begin shut, and then no pixel reaches the answer
    return built


@model("llama4")
def _llama4(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(
        processor,
        "llama4_text",
        head_dim=16,
        num_local_experts=2,
        intermediate_size_mlp=128,
        rope_parameters=dict(_ROPE),
    )
    vision = tower_settings(
        intermediate_size=4 * VISION_SIZE,  # as wide as the four patches that pixel shuffle puts together
        vision_output_dim=VISION_SIZE,
        projector_input_dim=VISION_SIZE,
        projector_output_dim=VISION_SIZE,
        image_size=processor.image_processor.size["height"],
        patch_size=processor.patch_size,
    )
    ids = token_ids(
        processor, image_token_index="<|patch|>", boi_token_index="<|image_start|>", eoi_token_index="<|image_end|>"
    )
    config = transformers.Llama4Config(text_config=text, vision_config=vision, **ids)
    return transformers.Llama4ForConditionalGeneration(config)
