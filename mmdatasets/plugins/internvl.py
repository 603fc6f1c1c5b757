"""InternVL 2.5, 3 and 3.5 in transformers' own form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion


@dataclass(eq=False)
class InternVLPlugin(BasePlugin):
    """All tiles of all items go into one `pixel_values`, in the order of the text."""

    def process_images(
        self, engine: Engine, images: Sequence[torch.Tensor], lengths: Sequence[int]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Without `num_patches`, which only the processor itself needs."""
        outputs, expansions = super().process_images(engine, images, lengths)
        return {name: value for name, value in outputs.items() if name != "num_patches"}, expansions
