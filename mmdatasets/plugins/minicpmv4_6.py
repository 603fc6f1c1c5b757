"""MiniCPM-V 4.6."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion


@dataclass(eq=False)
class MiniCPMV46Plugin(BasePlugin):
    """Each image of a row is numbered in the text: `<image_id>0</image_id><image>...`."""

    def index_expansion(self, engine: Engine, expansion: Expansion, index: int) -> Expansion:
        """Puts the item's number before it, where the processor's `use_image_id` asks for it."""
        processor = engine.runner.processor
        asked = engine.runner.setting("use_image_id")
        if not (processor.default_use_image_id if asked is None else asked):
            return expansion
        number = f"{processor.image_id_start_token}{index}{processor.image_id_end_token}"
        return replace(expansion, text=number + expansion.text)
