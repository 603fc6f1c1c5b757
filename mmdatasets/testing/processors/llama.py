"""Llama 3.2 Vision (Mllama) and Llama 4."""

from __future__ import annotations

import transformers
from transformers import ProcessorMixin

from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer


@family("mllama", checkpoint="meta-llama/Llama-3.2-11B-Vision-Instruct", modalities=("image",), plugin="mllama")
def _mllama() -> ProcessorMixin:
    tokenizer = build_tokenizer(
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
            "<|image|>",
            "<|finetune_right_pad_id|>",
        ],
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
    )
    return transformers.MllamaProcessor(
        image_processor=transformers.MllamaImageProcessor(
            size={"height": 560, "width": 560}, max_image_tiles=4, **normalisation("clip")
        ),
        tokenizer=tokenizer,
        chat_template=read_chat_template("mllama"),
    )


@family("llama4", checkpoint="meta-llama/Llama-4-Scout-17B-16E-Instruct", modalities=("image",), plugin="llama4")
def _llama4() -> ProcessorMixin:
    tokenizer = build_tokenizer(
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|header_start|>",
            "<|header_end|>",
            "<|eom|>",
            "<|eot|>",
            "<|step|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
            "<|image|>",
            "<|patch|>",
            "<|finetune_right_pad|>",
        ],
        bos_token="<|begin_of_text|>",
        eos_token="<|eot|>",
        pad_token="<|finetune_right_pad|>",
    )
    return transformers.Llama4Processor(
        image_processor=transformers.Llama4ImageProcessor(size={"height": 336, "width": 336}, max_patches=16),
        tokenizer=tokenizer,
        patch_size=14,
        pixel_shuffle_ratio=0.5,
        chat_template=read_chat_template("llama4"),
    )
