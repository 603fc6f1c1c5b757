"""Position ids, made in the worker as the model itself makes them from a batch.

Models with multimodal rotary embeddings (mRoPE) give each token a position in time, height and width, from the grids
of its images and videos. The rule is a method of transformers' model class, which is called here, of a model without
weights.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, cast

import torch

from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_METHOD = "compute_3d_position_ids"
_LEAVE_OUT = "leave position_ids=True out, the model then computes them itself"
_AXES = 3  # time, height, width


class _ComputesPositions(Protocol):
    """A model of transformers with multimodal rotary embeddings."""

    rope_deltas: object

    def compute_3d_position_ids(self, **inputs: object) -> torch.Tensor | None: ...


class ModelPositions:
    """The position ids that a model would compute from a batch.

    Args:
        config: The model's configuration. Of an omni model the thinker's is meant, which may stand in the whole's.

    Raises:
        MMDatasetsError: If transformers has no model class for the configuration, or one that cannot be asked.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self.config: PretrainedConfig = getattr(config, "thinker_config", config)
        self._model_class = find_model_class(self.config)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_rule", "_names")}

    def __call__(self, batch: Mapping[str, object]) -> torch.Tensor:
        """Computes the position ids of a batch.

        Args:
            batch: What the model takes: `input_ids` and `attention_mask` `(batch, length)`, the grids of its images
                and videos, `mm_token_type_ids`, ...

        Returns:
            With multimodal rotary embeddings `(axes, batch, length)`, the axes being time, height and width in most
            models; else `(batch, length)`. A row's tokens count from 0, and padding has what the model gives it.
            `torch.int64`, but `torch.float32` in Qwen3-Omni, whose times may be fractions. (Where a batch has no
            media, models count padding too, which here has 0: rotary embeddings do not tell the difference.)
        """
        mask = cast("torch.Tensor", batch["attention_mask"])
        if self._rule is None:
            return plain_position_ids(mask)
        given = {name: batch[name] for name in self._names if name in batch}
        if "feature_attention_mask" in batch and "audio_feature_lengths" in self._names:
            # As the forward of Qwen's omni models derives them.
            given["audio_feature_lengths"] = cast("torch.Tensor", batch["feature_attention_mask"]).sum(dim=1)
        self._rule.rope_deltas = None  # each batch is a beginning
        missing = {name: None for name in self._names if name not in given}
        positions = self._rule.compute_3d_position_ids(**given, **missing)
        if positions is None:  # no media: the model counts tokens
            return plain_position_ids(mask).expand(self.num_axes, *mask.shape).contiguous()
        return positions

    @cached_property
    def _rule(self) -> _ComputesPositions | None:
        """The model without its layers, of which the method makes no use; none where tokens are just counted."""
        if not hasattr(self._model_class, _METHOD):
            return None
        config = copy.deepcopy(self.config)
        config._attn_implementation = "eager"  # asks for no package, and is not run
        with torch.device("meta"):
            model = self._model_class(config)
        model._modules.clear()
        return cast("_ComputesPositions", model)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The arguments of the model's method: inputs of its forward."""
        if self._rule is None:
            return ()
        parameters = inspect.signature(self._rule.compute_3d_position_ids).parameters.values()
        return tuple(one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD)

    @property
    def num_axes(self) -> int:
        """How many numbers a position is: three in most models with multimodal rotary embeddings, else 1."""
        if self._rule is None:
            return 1
        rope = getattr(self.config.get_text_config(), "rope_parameters", None) or {}
        return len(rope.get("mrope_section") or range(_AXES))


def plain_position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """Counts each row's tokens from 0; padding has 0.

    Args:
        attention_mask: `(batch, length)`, 0 at padding.
    """
    mask = attention_mask.to(torch.int64)
    return (mask.cumsum(dim=-1) - 1).clamp(min=0) * mask


def find_model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The model class that has the rule; any of the configuration's where tokens are just counted.

    Raises:
        MMDatasetsError: If transformers has no model class for the configuration, or one that cannot be asked.
    """
    classes = _classes_of(config)
    if not classes:
        raise MMDatasetsError(
            f"transformers has no model class for {type(config).__name__}, which must be asked for position ids: "
            f"{_LEAVE_OUT}"
        )
    if any(hasattr(one, "get_rope_index") for one in classes) and not any(hasattr(one, _METHOD) for one in classes):
        raise MMDatasetsError(
            f"this version of transformers has no {_METHOD} for {type(config).__name__}: upgrade it, or {_LEAVE_OUT}"
        )
    return next((one for one in classes if hasattr(one, _METHOD)), classes[0])


def _classes_of(config: PretrainedConfig) -> list[type[PreTrainedModel]]:
    from transformers.models.auto import modeling_auto

    names = ("MODEL_MAPPING", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", "MODEL_FOR_MULTIMODAL_LM_MAPPING")
    classes: list[type[PreTrainedModel]] = []
    for mapping in (getattr(modeling_auto, name, {}) for name in names):
        found = mapping.get(type(config), None)
        classes += found if isinstance(found, tuple) else [] if found is None else [found]
    return classes
