"""ERNIE 4.5 VL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine


@dataclass(eq=False)
class ErnieVLPlugin(BasePlugin):
    """Experts are routed by modality: the model takes `moe_mm_token_type_ids`, which count delimiters as media."""

    processor_sizes_videos = True

    def sequence_inputs(self, engine: Engine, batch_ids: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """Adds the processor's own types for the routing of experts."""
        create = engine.runner.processor.create_moe_mm_token_type_ids
        routed = {"moe_mm_token_type_ids": [create(list(ids)) for ids in batch_ids]}
        return super().sequence_inputs(engine, batch_ids) | routed
