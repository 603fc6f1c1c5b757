"""Families whose model treats every frame of a video by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch

from mmdatasets.plugins.base import BasePlugin
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, MediaInput, Modality, VideoShape


@dataclass(eq=False)
class FramewisePlugin(BasePlugin):
    """Videos of different frame counts stand in one tensor `(1, num_frames, ...)`, the frames of all."""

    frames_are_independent: ClassVar[bool] = True
    outputs_are_stacked: ClassVar[bool] = False


@dataclass(eq=False)
class VideoLlavaPlugin(FramewisePlugin):
    """LLaVA models with an encoder for videos, or a pooling, that images do not go through."""

    towers: ClassVar[tuple[tuple[Modality, ...], ...]] = (("image",), ("video",))


@dataclass(eq=False)
class InternVLPlugin(FramewisePlugin):
    """Tiles of images and frames of videos are `pixel_values` together, in the order of the text."""

    outputs_are_stacked: ClassVar[bool] = True

    def process_media(
        self, engine: Engine, rows: Sequence[Sequence[MediaInput]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the processor on images and videos, and puts what it makes in the order of the text.

        Returns:
            `pixel_values` `(num_tiles, 3, height, width)`, and what each item becomes in the text.
        """
        outputs, expansions = engine.runner.process(rows)
        tiles, frames = outputs.get("pixel_values"), outputs.get("pixel_values_videos")
        per_image = iter(torch.as_tensor(outputs.get("num_patches", [])).tolist())
        left = {"image": tiles, "video": None if frames is None else frames.flatten(0, 1)}  # type: ignore[attr-defined]
        ordered = []
        for item in chain(*rows):
            count = len(item.shape.frames.indices) if isinstance(item.shape, VideoShape) else next(per_image)
            rest: torch.Tensor = left[item.modality]  # type: ignore[assignment]
            ordered.append(rest[:count])
            left[item.modality] = rest[count:]
        return {"pixel_values": torch.cat(ordered)}, expansions
