"""Qwen2-Audio, and the thinkers of Qwen2.5-Omni and Qwen3-Omni: the part that reads media and writes text."""

from __future__ import annotations

import transformers
from transformers import PreTrainedModel, ProcessorMixin
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from mmdatasets.testing.models.qwen import qwen2_5_tower, qwen3_tower
from mmdatasets.testing.models.registry import HIDDEN_SIZE, VISION_SIZE, model, mrope, text_settings, token_ids


def _ears(**more: object) -> dict[str, object]:
    return {
        "d_model": VISION_SIZE,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 2 * VISION_SIZE,
        **more,
    }


@model("qwen2_audio")
def _qwen2_audio(processor: ProcessorMixin) -> PreTrainedModel:
    config = transformers.Qwen2AudioConfig(
        audio_config=_ears(model_type="qwen2_audio_encoder"),
        text_config=text_settings(processor, "qwen2"),
        audio_token_index=processor.audio_token_id,
    )
    return transformers.Qwen2AudioForConditionalGeneration(config)


def _delimiters(processor: ProcessorMixin) -> dict[str, int]:
    return token_ids(
        processor,
        audio_start_token_id=processor.audio_bos_token,
        audio_end_token_id=processor.audio_eos_token,
        vision_start_token_id=processor.vision_bos_token,
        vision_end_token_id=processor.vision_eos_token,
        user_token_id="user",
    )


def _media_tokens(processor: ProcessorMixin, ending: str) -> dict[str, int]:
    tokens = {kind: getattr(processor, f"{kind}_token") for kind in ("image", "video", "audio")}
    return token_ids(processor, **{f"{kind}_token_{ending}": token for kind, token in tokens.items()})


@model("qwen2_5_omni")
def _qwen2_5_omni(processor: ProcessorMixin) -> PreTrainedModel:
    config = Qwen2_5OmniThinkerConfig(
        audio_config=_ears(output_dim=HIDDEN_SIZE, n_window=100),
        vision_config=qwen2_5_tower(processor),
        text_config=text_settings(processor, rope_parameters=mrope(2, 3, 3)),
        **_media_tokens(processor, "index"),
        **_delimiters(processor),
    )
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


@model("qwen3_omni_moe")
def _qwen3_omni_moe(processor: ProcessorMixin) -> PreTrainedModel:
    text = text_settings(
        processor,
        head_dim=16,
        rope_parameters=mrope(2, 3, 3, mrope_interleaved=True),
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
    )
    config = Qwen3OmniMoeThinkerConfig(
        audio_config=_ears(output_dim=HIDDEN_SIZE, downsample_hidden_size=16),
        vision_config=qwen3_tower(processor),
        text_config=text,
        **_media_tokens(processor, "id"),
        **_delimiters(processor),
    )
    return transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config)
