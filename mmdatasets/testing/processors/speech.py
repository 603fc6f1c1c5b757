"""Speech models without a plugin of their own whose parts need more than transformers, or whose prompts say more.

Class defaults and ChatML, as in `more`.
"""

from __future__ import annotations

from collections.abc import Mapping

from mmdatasets.testing.processors.recipe import Recipe, register_recipes

# VibeVoice's processor writes the duration of an audio where the prompt has its token.
_TIMED = "'<|object_ref_start|>' ~ audio_token ~ '<|object_ref_end|>\\nThis is a <|AUDIO_DURATION|> seconds audio.'"

_RECIPES: Mapping[str, Recipe] = {
    "granite_speech": Recipe(
        "ibm-granite/granite-speech-3.3-2b",
        "GraniteSpeechProcessor",
        {"audio_processor": "GraniteSpeechFeatureExtractor"},
        {"audio_token": "<|audio|>"},
        packages=("torchaudio",),
    ),
    "fun_asr_nano": Recipe(
        "FunAudioLLM/Fun-ASR-Nano-2512-hf",
        "FunAsrNanoProcessor",
        {"feature_extractor": "FunAsrNanoFeatureExtractor"},
        {"audio_token": "<|object_ref_start|>"},
        packages=("torchaudio",),
    ),
    "vibevoice_asr": Recipe(
        "microsoft/VibeVoice-ASR-HF",
        "VibeVoiceAsrProcessor",
        {"feature_extractor": "VibeVoiceAcousticTokenizerFeatureExtractor"},
        {"audio_token": "<|box_start|>"},
        ("<|object_ref_start|>", "<|object_ref_end|>", "<|AUDIO_DURATION|>"),
        heard=_TIMED,
    ),
}

register_recipes(_RECIPES)
