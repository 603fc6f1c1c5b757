"""MiniCPM-V 4.6 and 4.7, MiniCPM-OCR."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, Modality


@dataclass(eq=False)
class MiniCPMV46Plugin(BasePlugin):
    """Each image of a row is numbered in the text: `<image_id>0</image_id><image>...`; until 4.7 each video, too."""

    outputs_are_stacked: ClassVar[bool] = False  # patches lie along the last dimension of `pixel_values`

    def index_expansion(self, engine: Engine, expansion: Expansion, index: int, modality: Modality) -> Expansion:
        """Puts the item's number before it, where the processor's `use_image_id` asks for it."""
        processor = engine.runner.processor
        asked = engine.runner.setting("use_image_id")
        if not (processor.default_use_image_id if asked is None else asked):
            return expansion
        token = processor.video_token if modality == "video" else processor.image_token
        # As the processor's call has it done, for a row of so many items.
        number = processor._prepend_local_ids([token * (index + 1)], [""] * (index + 1), token)[index]
        return replace(expansion, text=f"{number}{expansion.text}")
