"""GLM-4.1V, GLM-4.5V and GLM-4.6V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.plugins.base import BasePlugin

if TYPE_CHECKING:
    from transformers import ProcessorMixin


@dataclass(eq=False)
class GLM4VPlugin(BasePlugin):
    """An image counts as the frames of one temporal patch, also in the image processor's `size`."""

    def frames_of_image(self, processor: ProcessorMixin) -> int:
        """The image processor's `temporal_patch_size`."""
        frames: int = processor.image_processor.temporal_patch_size
        return frames
