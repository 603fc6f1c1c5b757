"""Kimi-VL, whose processor is code of its checkpoints, and Kimi K2.5, whose processor is transformers' own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import PIL.Image
import torch

from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.remote_code import as_pil, refusing
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, ImageInfo, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


@dataclass(eq=False)
class KimiVLPlugin(BasePlugin):
    """One token for each `merge_kernel_size` block of patches, at the image's own aspect ratio."""

    delimiters: ClassVar[Mapping[Modality, tuple[str, str]]] = {"image": ("<|media_content|>", "<|media_end|>")}

    def media_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> Mapping[Modality, tuple[str, str]]:
        """The processor's image token for both."""
        return {"image": (processor.image_token, processor.image_token)} if _is_remote(processor) else {}

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """Resizes a blank image as the image processor does, which is all of its work that decides on the tokens."""
        if not _is_remote(runner.processor):
            return super().plan_image(runner, info)
        processor = runner.processor.image_processor
        with refusing():
            blank = processor.rescale(PIL.Image.new("L", (info.width, info.height)), processor.merge_kernel_size)
        patches = (blank.width // processor.patch_size) * (blank.height // processor.patch_size)
        return _expansion(runner, patches)

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the image processor on all images: `pixel_values` `(num_patches, 3, ...)`, `image_grid_hws`."""
        runner = engine.runner
        if not _is_remote(runner.processor):
            return super().process_images(engine, images)
        with refusing():
            outputs = runner.processor.image_processor(as_pil(list(chain(*images))), return_tensors="pt")
        return dict(outputs), [_expansion(runner, math.prod(grid)) for grid in outputs["image_grid_hws"].tolist()]


def _is_remote(processor: ProcessorMixin | PreTrainedTokenizerBase) -> bool:
    return hasattr(getattr(processor, "image_processor", None), "merge_kernel_size")


def _expansion(runner: ProcessorRunner, num_patches: int) -> Expansion:
    merged = math.prod(runner.processor.image_processor.merge_kernel_size)
    return Expansion(runner.image_token, (num_patches // merged,))
