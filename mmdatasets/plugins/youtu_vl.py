"""Youtu-VL, whose processor is code of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.utils.rnn import pad_sequence

from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.remote_code import call_default, refusing
from mmdatasets.transforms.engine import Engine
from mmdatasets.types import Expansion, ImageInfo, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

_MERGED = 4
"""Patches in one token: the published processor and image processor both have the two by two block built in."""


@dataclass(eq=False)
class YoutuVLPlugin(BasePlugin):
    """One token for each block of two by two patches, near the image's own size."""

    delimiters: ClassVar[Mapping[Modality, tuple[str, str]]] = {"image": ("<|vision_start|>", "<|vision_end|>")}

    def media_tokens(self, processor: ProcessorMixin | PreTrainedTokenizerBase) -> Mapping[Modality, tuple[str, str]]:
        """The processor's image token for both."""
        token = getattr(processor, "image_token", "<|image_pad|>")
        return {"image": (token, token)}

    def plan_image(self, runner: ProcessorRunner, info: ImageInfo) -> Expansion:
        """Runs the image processor on a tensor without data."""
        blank = torch.zeros((3, info.height, info.width), dtype=torch.uint8, device="meta")
        return _expansion(runner, _process(runner, blank))

    def process_images(
        self, engine: Engine, images: Sequence[Sequence[torch.Tensor]]
    ) -> tuple[dict[str, object], list[Expansion]]:
        """Runs the image processor on each image, since it fails on several that become different numbers of patches.

        Returns:
            `pixel_values` `(num_images, most_patches, patch_dim)`, padded with zeros, `pixel_attention_mask`
            `(num_images, most_patches)` and `spatial_shapes` `(num_images, 2)`, and what each becomes in the text.
        """
        made = [_process(engine.runner, image) for image in chain(*images)]
        outputs: dict[str, object] = {
            name: pad_sequence([one[name][0] for one in made], batch_first=True)
            for name in ("pixel_values", "pixel_attention_mask")
        }
        outputs["spatial_shapes"] = torch.cat([one["spatial_shapes"] for one in made])
        return outputs, [_expansion(engine.runner, one) for one in made]


def _process(runner: ProcessorRunner, image: torch.Tensor) -> Mapping[str, torch.Tensor]:
    # The processor's call always passes its own limit on, whatever the image processor is set to.
    limit = call_default(runner.processor, "max_image_patches")
    kwargs = {} if limit is None else {"max_num_patches": limit}
    with refusing():
        outputs: Mapping[str, torch.Tensor] = runner.processor.image_processor(
            images=[image], return_tensors="pt", **kwargs
        )
    return outputs


def _expansion(runner: ProcessorRunner, outputs: Mapping[str, torch.Tensor]) -> Expansion:
    return Expansion(runner.image_token, (math.prod(outputs["spatial_shapes"][0].tolist()) // _MERGED,))
