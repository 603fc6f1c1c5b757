"""Which models keep packed sequences apart, and by what: each entry was proven on the model, by its gradients.

The conformance suite runs each of these models on packed rows and on the same rows one by one
(`mmdatasets.testing.checks.packing`). A model that is not listed may well keep sequences apart, but nobody looked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from mmdatasets.collate.masks import LayerRule
from mmdatasets.collate.position_ids import find_model_class
from mmdatasets.errors import CollateError, MMDatasetsError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PackedAttention: TypeAlias = Literal["varlen", "block_mask", "flex"]

PACKED_ATTENTION: tuple[PackedAttention, ...] = ("varlen", "block_mask", "flex")

FindBlocks: TypeAlias = Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]
"""Of a flattened batch and each token's sequence `(length,)`, the number of each token's block, -1 for none."""


@dataclass(frozen=True)
class Isolation:
    """How a model keeps packed sequences apart.

    Attributes:
        refusal: Why it does not; empty where it does.
        needs_mask: Why the boundaries alone do not do, so that the mask must be given; empty where they do.
        takes_no_mask: Why a mask cannot be given; empty where it can.
        runs_no_flex: Why FlexAttention cannot be used; empty where it can.
        takes_lengths: Whether `cu_seq_lens_q` and its relatives reach its text part alone.
        find_blocks: Finds the tokens that see one another in both directions, where the model has such.
        block_layers: The kinds of layers in which they do.
    """

    refusal: str = ""
    needs_mask: str = ""
    takes_no_mask: str = ""
    runs_no_flex: str = ""
    takes_lengths: bool = True
    find_blocks: FindBlocks | None = None
    block_layers: tuple[str, ...] = ()

    @property
    def ways(self) -> tuple[PackedAttention, ...]:
        """What `attention` may be."""
        return tuple(way for way in PACKED_ATTENTION if not self.why_not(way))

    def why_not(self, attention: PackedAttention) -> str:
        """Why `attention` cannot be this; empty where it can."""
        if self.refusal or attention == "varlen":
            return self.refusal or self.needs_mask
        return self.takes_no_mask or (self.runs_no_flex if attention == "flex" else "")


def _runs(inside: torch.Tensor) -> torch.Tensor:
    """Numbers runs of true values; -1 elsewhere."""
    before = torch.nn.functional.pad(inside, (1, 0))[:-1]
    return torch.where(inside, (inside & ~before).cumsum(0) - 1, -1)


def _images(batch: Mapping[str, torch.Tensor], sequence: torch.Tensor) -> torch.Tensor:
    return _runs(batch["token_type_ids"][0] == 1)


def _images_and_videos(batch: Mapping[str, torch.Tensor], sequence: torch.Tensor) -> torch.Tensor:
    types = batch["mm_token_type_ids"][0]
    return _runs((types == 1) | (types == 2))


def _prompts(batch: Mapping[str, torch.Tensor], sequence: torch.Tensor) -> torch.Tensor:
    return torch.where(batch["token_type_ids"][0] == 0, sequence, -1)


_BY_BOUNDARIES = Isolation()
_REMAPPED = (
    "the mask that transformers makes of packed positions lets the wrong tokens of an image see one another in its "
    "sliding layers"
)
_GEMMA3 = Isolation(needs_mask=_REMAPPED, find_blocks=_images, block_layers=("full_attention", "sliding_attention"))
_GEMMA4 = Isolation(needs_mask=_REMAPPED, find_blocks=_images_and_videos, block_layers=("sliding_attention",))
_PALIGEMMA = Isolation(
    needs_mask="its prompts see themselves in both directions, and transformers' mask takes all prompts for one",
    find_blocks=_prompts,
    block_layers=("full_attention",),
)
_PALIGEMMA_2 = Isolation("its forward takes no masks for full and sliding layers, which its packed rows would need")
_NO_IMAGE_YET = (
    "in its cross attention, the tokens before a row's first image attend to all images of the packed row: they "
    "would see those of other sequences"
)

_BY_MODEL_TYPE: Mapping[str, Isolation] = {
    "gemma3": _GEMMA3,
    "paligemma": _PALIGEMMA,
    "kimi_k25": Isolation(takes_lengths=False),  # its vision tower takes them for its own, and fails
    "qwen2_audio": Isolation(takes_no_mask="its forward takes a mask for that of padding"),
    "mllama": Isolation(_NO_IMAGE_YET),
    **dict.fromkeys(
        (
            "audioflamingo3",
            "aya_vision",
            "ernie4_5_vl_moe",
            "gemma2",
            "gemma3_text",
            "gemma3n",
            "glm46v",
            "glm4v",
            "granite",
            "idefics3",
            "internvl",
            "lighton_ocr",
            "llama",
            "llama4",
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "minicpmv4_6",
            "mistral",
            "mistral3",
            "olmo2",
            "phi3",
            "qwen2",
            "qwen2_5_omni_thinker",
            "qwen2_5_vl",
            "qwen2_vl",
            "qwen3",
            "qwen3_omni_moe_thinker",
            "qwen3_vl",
            "smollm3",
            "smolvlm",
            "video_llava",
        ),
        _BY_BOUNDARIES,
    ),
}

_UNLESS = "if yours does, pass trusted=True and have collator.verify(model, rows) tell whether it is so"

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_STATEFUL = ("mamba", "ssm", "conv_l_cache", "linear_key_head", "rwkv", "recurrent", "layers_block_type")
"""What the settings of layers that carry something on from token to token begin with."""


def isolation_of(config: PretrainedConfig, *, trusted: bool = False) -> Isolation:
    """How a model of transformers keeps packed sequences apart.

    Args:
        config: The model's configuration. Of an omni model the thinker's is meant, which may stand in the whole's.
        trusted: Whether a model type that nobody has looked at counts as one that keeps them apart by boundaries.
    """
    config = getattr(config, "thinker_config", config)
    isolation = _by_layers_and_type(config, trusted)
    return replace(isolation, runs_no_flex=_why_no_flex(config))


def _why_no_flex(config: PretrainedConfig) -> str:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(config.get_text_config()), None)
    if kind is None:  # a text part that is no model of its own
        try:
            kind = find_model_class(config)
        except MMDatasetsError:
            return "transformers has no model class for it, which could run FlexAttention"
    return "" if kind._supports_flex_attn else f"transformers' {kind.__name__} does not run FlexAttention"


def _by_layers_and_type(config: PretrainedConfig, trusted: bool) -> Isolation:
    text, kind = config.get_text_config(), config.model_type
    if carrying := _carrying_layers(text):
        reason = f"its layers of kind {', '.join(carrying)} carry a state from one sequence into the next"
        if trusted:  # flash-linear-attention's kernels stop at `cu_seq_lens_q`, which no mask tells them
            return Isolation(takes_no_mask=reason)
        return Isolation(f"{reason}; {_UNLESS}")
    if kind == "paligemma" and getattr(text, "sliding_window", None):
        return _PALIGEMMA_2
    if kind == "gemma4":
        # Smaller Gemma 4 models are causal throughout.
        return _GEMMA4 if getattr(text, "use_bidirectional_attention", None) == "vision" else _BY_BOUNDARIES
    known = _BY_MODEL_TYPE.get(kind)
    if known is None and not trusted:
        return Isolation(f"nobody has proven that models of type {kind!r} keep packed sequences apart; {_UNLESS}")
    return known or _BY_BOUNDARIES


def _carrying_layers(text: PretrainedConfig) -> list[str]:
    kinds = set(getattr(text, "layer_types", None) or ()) - _ATTENTION_LAYERS
    if not kinds and not getattr(text, "layer_types", None):
        kinds = {name for name in text.to_dict() if name.startswith(_STATEFUL)}
    return sorted(kinds)


def _declared(text: PretrainedConfig, name: str) -> int | None:
    """A setting of a configuration, if its class has such: files may have settings that the model does not read."""
    if name not in inspect.signature(type(text)).parameters:
        return None
    value: int | None = getattr(text, name, None)
    return value


def layer_rules(config: PretrainedConfig, isolation: Isolation) -> dict[str, LayerRule]:
    """What a token sees in each kind of layers that a model has, as transformers makes its masks.

    Args:
        config: The model's configuration.
        isolation: Which kinds of layers have blocks.
    """
    text = getattr(config, "thinker_config", config).get_text_config()
    window, chunk = _declared(text, "sliding_window"), _declared(text, "attention_chunk_size")
    kinds = sorted(set(getattr(text, "layer_types", None) or ()))
    if not kinds:
        kinds = ["sliding_attention" if window else "chunked_attention" if chunk else "full_attention"]
    return {
        kind: LayerRule(
            window if kind == "sliding_attention" else None,
            chunk if kind == "chunked_attention" else None,
            kind in isolation.block_layers,
        )
        for kind in kinds
    }


def implementation_of(config: PretrainedConfig) -> str | None:
    """The kind of attention that a model's text part runs, as far as its configuration says."""
    text = getattr(config, "thinker_config", config).get_text_config()
    implementation: str | None = getattr(text, "_attn_implementation", None)
    return implementation


def check_implementation(config: PretrainedConfig, attention: PackedAttention) -> None:
    """Checks that a model's kind of attention understands what tells it the boundaries.

    Raises:
        CollateError: If it does not.
    """
    implementation = implementation_of(config)
    if implementation is None or attention == "varlen":
        return
    fitting = ("flex_attention",) if attention == "flex" else ("sdpa", "eager")
    if implementation not in fitting:
        other = {"flex_attention": "flex", "sdpa": "block_mask", "eager": "block_mask"}.get(implementation, "varlen")
        raise CollateError(
            f"attention={attention!r} makes a mask for {' and '.join(fitting)} attention, but the model runs "
            f"{implementation!r}: pass attention={other!r}, or load the model with attn_implementation={fitting[0]!r}"
        )


def check_isolation(isolation: Isolation, attention: PackedAttention, name: str) -> None:
    """Checks that a model keeps packed sequences apart, by what it is told.

    Raises:
        CollateError: If it does not. Names the family and says why.
        ValueError: If there is no such `attention`.
    """
    if attention not in PACKED_ATTENTION:
        raise ValueError(f"attention={attention!r} is none of {', '.join(map(repr, PACKED_ATTENTION))}")
    if isolation.refusal:
        raise CollateError(f"{name} cannot be packed: {isolation.refusal}")
    if attention not in isolation.ways:
        raise CollateError(
            f"{name} cannot be packed with attention={attention!r}: {isolation.why_not(attention)}; pass "
            f"{' or '.join(f'attention={way!r}' for way in isolation.ways)}"
        )
