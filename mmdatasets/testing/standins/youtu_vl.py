"""Follows the published interface of the Youtu-VL processor (Youtu-VL-4B-Instruct); written for tests.

Facts, from a copy of the published image processor and from ports that were measured against the checkpoint: sides are
rounded up to whole blocks of two by two patches of 16 pixels; an image over the limit is scaled down in steps of 0.02;
patches go block by block, pixels channel last; the processor always passes its own `max_image_patches` of 36864 on;
each `<|image_pad|>` of the text is repeated for each block.

Assumed: the published image processor stacks the images of a call, and fails where they differ in patches; here the
shorter ones are padded with zeros, `pixel_attention_mask` saying where. The chat format is ChatML with Qwen's
delimiters around an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import PIL.Image
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional as tv
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerFast

from mmdatasets.testing.processors import read_chat_template
from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.tokenizer import build_tokenizer

_MERGE = 2
_TOKENS = (
    "<|begin_of_text|> <|end_of_text|> <|im_start|> <|im_end|> "
    "<|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|>"
)


class Siglip2ImageProcessorFast(BaseImageProcessor):  # type: ignore[misc]
    """Cuts images into patches near their own size."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_attention_mask", "spatial_shapes"]

    def __init__(self, patch_size: int = 16, max_num_patches: int = 256, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.max_num_patches = max_num_patches

    def _target(self, height: int, width: int, limit: int) -> tuple[int, int]:
        block = self.patch_size * _MERGE
        scale = 1.0
        while True:
            sides = [max(block, math.ceil(side * scale / block) * block) for side in (height, width)]
            if math.prod(sides) / self.patch_size**2 <= limit:
                return sides[0], sides[1]
            scale -= 0.02

    def preprocess(
        self,
        images: Sequence[PIL.Image.Image | torch.Tensor],
        max_num_patches: int | None = None,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes `pixel_values` `(num_images, most_patches, patch_dim)`, its mask, and `spatial_shapes` in patches."""
        size = self.patch_size
        values, shapes = [], []
        for image in images:
            pixels = image if isinstance(image, torch.Tensor) else tv.pil_to_tensor(image.convert("RGB"))
            height, width = pixels.shape[-2:]
            target = self._target(height, width, max_num_patches or self.max_num_patches)
            pixels = tv.resize(pixels, list(target), tv.InterpolationMode.BILINEAR, antialias=True)
            pixels = (pixels.float() / 255 - 0.5) / 0.5
            rows, columns = target[0] // size, target[1] // size
            blocks = pixels.reshape(3, rows // _MERGE, _MERGE, size, columns // _MERGE, _MERGE, size)
            values.append(blocks.permute(1, 4, 2, 5, 3, 6, 0).reshape(rows * columns, -1))
            shapes.append((rows, columns))
        masks = [torch.ones(len(patches), dtype=torch.int32) for patches in values]
        return BatchFeature(
            {
                "pixel_values": pad_sequence(values, batch_first=True),
                "pixel_attention_mask": pad_sequence(masks, batch_first=True),
                "spatial_shapes": torch.tensor(shapes),
            }
        )


class YoutuVLProcessor(StandInProcessor):
    """Youtu-VL."""

    image_processor_type = Siglip2ImageProcessorFast

    def __init__(
        self,
        image_processor: Siglip2ImageProcessorFast,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
    ) -> None:
        self.image_token = "<|image_pad|>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self,
        images: Sequence[PIL.Image.Image] | None = None,
        text: str | Sequence[str] | None = None,
        max_image_patches: int = 36864,
        padding: bool = False,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes a batch of texts with an image token for each image, and of all images."""
        texts = [text] if isinstance(text, str) else list(text or [])
        media: BatchFeature | dict[str, torch.Tensor] = {}
        counts = iter(())
        if images:
            media = self.image_processor(images=images, max_num_patches=max_image_patches, return_tensors="pt")
            counts = iter([rows * columns // _MERGE**2 for rows, columns in media["spatial_shapes"].tolist()])
        expanded = []
        for one in texts:
            first, *rest = one.split(self.image_token)
            expanded.append(first + "".join(self.image_token * next(counts) + chunk for chunk in rest))
        return BatchFeature({**self.tokenizer(expanded, padding=padding, return_tensors=return_tensors), **media})


def build_youtu_vl() -> YoutuVLProcessor:
    """Youtu-VL; the image processor's own limit is the checkpoint's, which the processor's call overrules."""
    tokenizer = build_tokenizer(
        _TOKENS.split(),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|end_of_text|>",
    )
    template = read_chat_template("qwen2_5_vl")
    return YoutuVLProcessor(Siglip2ImageProcessorFast(), tokenizer, chat_template=template)
