"""Pixtral and Mistral Small 3.1."""

from __future__ import annotations

import transformers
from transformers import ProcessorMixin

from mmdatasets.testing.processors.registry import family, normalisation, read_chat_template
from mmdatasets.testing.tokenizer import build_tokenizer

_SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
)


def _pixtral_processor(template: str, patch_size: int, merge_size: int, longest_edge: int) -> ProcessorMixin:
    tokenizer = build_tokenizer(
        _SPECIAL_TOKENS, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", add_bos=True
    )
    return transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(
            size={"longest_edge": longest_edge},
            patch_size={"height": patch_size, "width": patch_size},
            **normalisation("clip"),
        ),
        tokenizer=tokenizer,
        patch_size=patch_size,
        spatial_merge_size=merge_size,
        chat_template=read_chat_template(template),
    )


@family("pixtral", checkpoint="mistral-community/pixtral-12b", modalities=("image",), plugin="pixtral")
def _pixtral() -> ProcessorMixin:
    return _pixtral_processor("pixtral", patch_size=16, merge_size=1, longest_edge=1024)


@family(
    "mistral3",
    checkpoint="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    modalities=("image",),
    plugin="pixtral",
)
def _mistral3() -> ProcessorMixin:
    return _pixtral_processor("mistral3", patch_size=14, merge_size=2, longest_edge=1540)
