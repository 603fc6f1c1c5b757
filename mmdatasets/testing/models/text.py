"""A tiny language model without media."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmdatasets.testing.models.registry import text_settings


def build_text_model(tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> PreTrainedModel:
    """Builds a Llama of two layers for a tokenizer, as `build_model` does for a processor.

    Args:
        tokenizer: The vocabulary.
        seed: Determines the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**text_settings(tokenizer))).eval()
