"""PaliGemma, Gemma 3, Gemma 3n and Gemma 4."""

from __future__ import annotations

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutput

from mmdatasets.testing.models.registry import HIDDEN_SIZE, VISION_SIZE, model, text_settings, tower_settings

_LAYERS = ["sliding_attention", "full_attention"]


def _siglip(processor: ProcessorMixin) -> dict[str, object]:
    size = processor.image_processor.size["height"]
    return tower_settings("siglip_vision_model", image_size=size, patch_size=14, vision_use_head=False)


@model("paligemma")
def _paligemma(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.PaliGemmaConfig(
        vision_config=_siglip(processor) | {"projection_dim": HIDDEN_SIZE},
        text_config=text_settings(processor, "gemma", head_dim=16),
        projection_dim=HIDDEN_SIZE,
        hidden_size=HIDDEN_SIZE,
        image_token_index=processor.image_token_id,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


@model("gemma3")
def _gemma3(processor: ProcessorMixin) -> PreTrainedModel:
    tokenizer = processor.tokenizer
    text = text_settings(processor, "gemma3_text", head_dim=16, query_pre_attn_scalar=16, layer_types=_LAYERS)
    config = transformers.Gemma3Config(
        vision_config=_siglip(processor),
        text_config=text,
        mm_tokens_per_image=processor.image_seq_length,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    built = transformers.Gemma3ForConditionalGeneration(config)
    # The projection begins at zero, and then no pixel reaches the answer.
    nn.init.normal_(built.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    return built


class _PoolingTower(nn.Module):
    """Stands in for Gemma 3n's MobileNet, which has 300 million parameters and no small form.

    `(images, 3, 768, 768)` becomes a `last_hidden_state` of `(images, hidden, 16, 16)`.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden_size, 48, 48)

    def forward(self, pixel_values: torch.Tensor, **_: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.patches(pixel_values))


@model("gemma3n")
def _gemma3n(processor: ProcessorMixin) -> PreTrainedModel:
    tokenizer = processor.tokenizer
    vocabulary, vision_vocabulary, audio_vocabulary = len(tokenizer), 128, 8
    text = text_settings(
        processor,
        "gemma3n_text",
        vocab_size=vocabulary + vision_vocabulary + audio_vocabulary,  # it counts the ids of all three
        vocab_size_per_layer_input=vocabulary,
        hidden_size_per_layer_input=16,
        head_dim=16,
        num_kv_shared_layers=0,
        laurel_rank=8,
        altup_num_inputs=2,
        layer_types=_LAYERS,
        activation_sparsity_pattern=[0.0, 0.0],
    )
    vision = {
        "model_type": "gemma3n_vision",
        "architecture": "test_resnet",
        "hidden_size": VISION_SIZE,
        "vocab_size": vision_vocabulary,
        "vocab_offset": vocabulary,
        "do_pooling": True,
    }
    audio = {
        "model_type": "gemma3n_audio",
        "hidden_size": VISION_SIZE,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": (8, 4),
        "vocab_size": audio_vocabulary,
        "vocab_offset": vocabulary + vision_vocabulary,
    }
    config = transformers.Gemma3nConfig(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        audio_soft_tokens_per_image=processor.audio_seq_length,
        vision_soft_tokens_per_image=processor.image_seq_length,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_id=tokenizer.eoa_token_id,
        audio_token_id=tokenizer.audio_token_id,
        attn_implementation="eager",
    )
    built = transformers.Gemma3nForConditionalGeneration(config)
    built.model.vision_tower = _PoolingTower(VISION_SIZE)
    return built


@model("gemma4")
def _gemma4(processor: ProcessorMixin) -> PreTrainedModel:
    tokenizer = processor.tokenizer
    images = processor.image_processor
    text = text_settings(
        processor,
        "gemma4_text",
        vocab_size_per_layer_input=len(tokenizer),
        hidden_size_per_layer_input=16,
        head_dim=16,
        global_head_dim=16,
        layer_types=_LAYERS,
        use_bidirectional_attention="vision",
    )
    vision = tower_settings(
        num_key_value_heads=2,
        head_dim=16,
        position_embedding_size=1024,
        pooling_kernel_size=images.pooling_kernel_size,
        patch_size=images.patch_size,
    )
    audio = {
        "hidden_size": VISION_SIZE,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [128, 4],
        "output_proj_dims": VISION_SIZE,
    }
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
        audio_token_id=processor.audio_token_id,
        attn_implementation="eager",
    )
    return transformers.Gemma4ForConditionalGeneration(config)
