"""PaliGemma, Gemma 3, Gemma 3n and Gemma 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import transformers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from mmdatasets.plugins.paligemma import PaliGemmaPlugin
from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer

_BASE_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
_TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")


def _tokenizer(
    special_tokens: Sequence[str], named_tokens: Mapping[str, str], *, eos_token: str, padding_side: str = "left"
) -> PreTrainedTokenizerFast:
    return build_tokenizer(
        [*_BASE_TOKENS, *special_tokens],
        named_tokens=named_tokens,
        bos_token="<bos>",
        eos_token=eos_token,
        pad_token="<pad>",
        unk_token="<unk>",
        add_bos=True,
        padding_side=padding_side,
    )


@family("paligemma", checkpoint="google/paligemma-3b-pt-224", modalities=("image",), plugin="paligemma")
def _paligemma() -> ProcessorMixin:
    images = transformers.SiglipImageProcessor(
        size={"height": 224, "width": 224}, resample=3, image_seq_length=256, **normalisation("half")
    )
    tokenizer = _tokenizer([], {"image_token": "<image>"}, eos_token="<eos>", padding_side="right")
    # It is no chat model: the checkpoint has no chat template, and the plugin's own stands in.
    return transformers.PaliGemmaProcessor(
        image_processor=images, tokenizer=tokenizer, chat_template=PaliGemmaPlugin.default_chat_template
    )


@family("gemma3", checkpoint="google/gemma-3-4b-it", modalities=("image",), plugin="gemma3")
def _gemma3() -> ProcessorMixin:
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    return transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 896, "width": 896}, **normalisation("half")),
        tokenizer=_tokenizer(_TURN_TOKENS, named, eos_token="<end_of_turn>"),
        image_seq_length=256,
        chat_template=read_chat_template("gemma3"),
    )


@family("gemma3n", checkpoint="google/gemma-3n-E2B-it", modalities=("image", "audio"), plugin="gemma3n")
def _gemma3n() -> ProcessorMixin:
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "boa_token": "<start_of_audio>",
        "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>",
    }
    return transformers.Gemma3nProcessor(
        feature_extractor=transformers.Gemma3nAudioFeatureExtractor(),
        image_processor=transformers.SiglipImageProcessor(
            size={"height": 768, "width": 768}, do_normalize=False, resample=2, **normalisation("half")
        ),
        tokenizer=_tokenizer(_TURN_TOKENS, named, eos_token="<end_of_turn>"),
        audio_seq_length=188,
        image_seq_length=256,
        chat_template=read_chat_template("gemma3n"),
    )


@family("gemma4", checkpoint="google/gemma-4-E4B-it", modalities=("image", "video", "audio"), plugin="gemma4")
def _gemma4() -> ProcessorMixin:
    """Media settings are the class defaults, which the checkpoint repeats."""
    named = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }
    special = ("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|video|>")
    return transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(),
        video_processor=transformers.Gemma4VideoProcessor(),
        tokenizer=_tokenizer(special, named, eos_token="<turn|>"),
        chat_template=read_chat_template("gemma4"),
    )
