"""Tiny random-weight models that take what the processors of `mmdatasets.testing.processors` return.

Each is transformers' own class with a small configuration. A further family is one decorated function in one of the
modules imported here.
"""

from __future__ import annotations

from mmdatasets.testing.models import further, gemma, llama, llava, mistral, others, qwen, qwen_audio
from mmdatasets.testing.models.registry import ModelBuilder, build_model, list_models
from mmdatasets.testing.models.text import build_text_model

__all__ = ["ModelBuilder", "build_model", "build_text_model", "list_models"]

# Importing these registers their families.
_MODULES = (further, gemma, llama, llava, mistral, others, qwen, qwen_audio)
