"""How to build each family's tiny model, and the settings that families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

ModelBuilder: TypeAlias = Callable[[ProcessorMixin], PreTrainedModel]

HIDDEN_SIZE = 64
VISION_SIZE = 32

# Filled while the package's modules are imported, and never after.
_BUILDERS: dict[str, ModelBuilder] = {}


def model(name: str) -> Callable[[ModelBuilder], ModelBuilder]:
    """Registers the decorated function as the builder of a family's model."""

    def register(build: ModelBuilder) -> ModelBuilder:
        _BUILDERS[name] = build
        return build

    return register


def build_model(name: str, processor: ProcessorMixin, *, seed: int = 0) -> PreTrainedModel:
    """Builds a tiny model of a family, in float32, on the CPU, in evaluation mode.

    Vocabulary size, patch sizes and token ids are read off the processor. The same arguments give the same weights;
    the global random state stays as it was.

    Args:
        name: One of `list_models()`.
        processor: The family's processor, whose output the model is to take.
        seed: Determines the weights.

    Returns:
        A model with fewer than two million parameters.

    Raises:
        KeyError: No builder is registered under `name`.
    """
    if name not in _BUILDERS:
        raise KeyError(f"no model {name!r}: expected one of {', '.join(list_models())}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = _BUILDERS[name](processor)
    return built.eval()


def list_models() -> list[str]:
    """Returns the names that `build_model` knows, sorted."""
    return sorted(_BUILDERS)


def text_settings(
    processor: ProcessorMixin | PreTrainedTokenizerBase, model_type: str | None = None, **more: object
) -> dict[str, object]:
    """A two-layer decoder with four heads of 16.

    Args:
        processor: The family's processor, or a tokenizer: the vocabulary is its tokenizer's.
        model_type: Which decoder, where the family's configuration leaves a choice.
        **more: Settings of the decoder's own; they replace those given here.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
    }
    if model_type is not None:
        settings["model_type"] = model_type
    return settings | more


def mrope(*sections: int, **more: object) -> dict[str, object]:
    """Rotary settings that share a head's dimensions among time, height and width."""
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(sections), **more}


def tower_settings(model_type: str | None = None, *, layers: int = 1, **more: object) -> dict[str, object]:
    """A vision tower with two heads of 16, in the names that CLIP's configuration uses."""
    settings: dict[str, object] = {
        "hidden_size": VISION_SIZE,
        "intermediate_size": 2 * VISION_SIZE,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }
    if model_type is not None:
        settings["model_type"] = model_type
    return settings | more


def token_ids(processor: ProcessorMixin, **tokens: str) -> dict[str, int]:
    """The ids of tokens, under the names that the configuration gives them."""
    return {name: processor.tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
