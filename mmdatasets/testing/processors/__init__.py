"""Processors built offline: transformers' own classes, a checkpoint's published settings, a small vocabulary.

Sizes, patch sizes and normalisation are those of `preprocessor_config.json` of the checkpoint that a family's
`ProcessorSpec` names; token strings those of its `tokenizer_config.json`. Only the ids differ, as the vocabulary is
small. A further family is one decorated function in one of the modules imported here, and one chat template.
"""

from __future__ import annotations

from mmdatasets.testing.processors import (
    altering,
    further,
    gemma,
    llama,
    llava,
    mistral,
    more,
    others,
    qwen,
    qwen_audio,
    speech,
)
from mmdatasets.testing.processors.registry import (
    ProcessorBuilder,
    ProcessorSpec,
    build_processor,
    get_spec,
    list_processors,
    missing_packages,
    read_chat_template,
)

__all__ = [
    "ProcessorBuilder",
    "ProcessorSpec",
    "build_processor",
    "get_spec",
    "list_processors",
    "missing_packages",
    "read_chat_template",
]

# Importing these registers their families.
_MODULES = (altering, further, gemma, llama, llava, mistral, more, others, qwen, qwen_audio, speech)
