"""Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mmdatasets.errors import MediaProcessorError
from mmdatasets.options import MediaOptions
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.types import Expansion, ImageInfo, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.planning.dry_run import ProcessorKwargs, ProcessorRunner


@dataclass(eq=False)
class Qwen2VLPlugin(BasePlugin):
    """One token for each `merge_size` x `merge_size` block of patches, at the image's own aspect ratio."""

    name = "qwen2_vl"
    processor_classes: ClassVar[tuple[str, ...]] = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")
    markup: ClassVar[Mapping[Modality, str]] = {"image": "<|vision_start|>{}<|vision_end|>"}
    delimiters: ClassVar[Mapping[Modality, tuple[str, str]]] = {"image": ("<|vision_start|>", "<|vision_end|>")}
    processor_sizes_images = True

    def processor_kwargs(
        self, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions
    ) -> dict[Modality, ProcessorKwargs]:
        """The pixel budget as the image processor's `size`: its `shortest_edge` and `longest_edge` count pixels."""
        if options.image_min_pixels is None and options.image_max_pixels is None:
            return {}
        size = dict(processor.image_processor.size)
        low = options.image_min_pixels or size["shortest_edge"]
        high = options.image_max_pixels or size["longest_edge"]
        if options.image_min_pixels is None:
            low = min(low, high)  # a budget below the processor's own minimum moves the minimum along
        elif options.image_max_pixels is None:
            high = max(low, high)
        return {"image": {"size": {"shortest_edge": low, "longest_edge": high}}}

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """The image processor's own patch count, which equals the dry run and takes microseconds."""
        processor = runner.processor.image_processor
        size = runner.kwargs("image").get("size") or processor.size
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}  # type: ignore[index]
        try:
            patches = processor.get_number_of_image_patches(info.height, info.width, limits)
        except ValueError as error:
            raise MediaProcessorError(f"the model's processor refuses it: {error}") from error
        return Expansion(runner.media_tokens["image"], (patches // processor.merge_size**2,))
