"""ERNIE 4.5 VL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.options import MediaOptions
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.qwen2_vl import size_between
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.planning.dry_run import ProcessorKwargs


@dataclass(eq=False)
class ErnieVLPlugin(BasePlugin):
    """Experts are routed by modality: the model takes `moe_mm_token_type_ids`, which count delimiters as media."""

    processor_sizes_videos = True

    def processor_kwargs(
        self, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions
    ) -> dict[Modality, ProcessorKwargs]:
        """The pixel budget of frames as the video processor's `size`: its own minimum is above most budgets."""
        low, high = options.video_min_pixels, options.video_max_pixels
        if (low, high) == (None, None):
            return {}
        return {"video": {"size": size_between(processor.video_processor.size, low, high)}}

    def sequence_inputs(self, engine: Engine, batch_ids: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """Adds the processor's own types for the routing of experts."""
        create = engine.runner.processor.create_moe_mm_token_type_ids
        routed = {"moe_mm_token_type_ids": [create(list(ids)) for ids in batch_ids]}
        return super().sequence_inputs(engine, batch_ids) | routed
