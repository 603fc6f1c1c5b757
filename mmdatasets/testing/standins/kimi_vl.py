"""Follows the published interface of the Kimi-VL processor (Kimi-VL-A3B); written for tests.

Facts, from copies of the published code: an image over `in_token_limit` patches is scaled down; with `pad_input` it is
then padded right and below with black to whole merge blocks, else cropped around its centre to whole patches; sides of
512 patches and more are refused; each `<|media_pad|>` of the text is repeated for each merge block. The checkpoints'
settings are `pad_input`, two by two blocks of 14 pixel patches, 4096 patches at most.

The published tokenizer is a slow one (tiktoken in Python), of which no token's characters are known; this one is fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, BatchFeature, PreTrainedTokenizerFast

from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.tokenizer import build_tokenizer

_LONGEST_SIDE = 512  # patches
_TOKENS = (
    "[BOS] [EOS] <|im_end|> <|im_user|> <|im_assistant|> <|im_system|> <|im_middle|> "
    "<|media_start|> <|media_content|> <|media_end|> <|media_pad|> [PAD]"
)

_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message.role != 'system' -%}"
    "{{ '<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>' }}{%- endif -%}"
    "{{ '<|im_' + message.role + '|>' + message.role + '<|im_middle|>' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<|media_start|>image<|media_content|><|media_pad|><|media_end|>' }}"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_assistant|>assistant<|im_middle|>' }}{%- endif -%}"
)


class KimiVLImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Cuts images into patches at their own aspect ratio."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "image_grid_hws"]

    def __init__(
        self,
        patch_size: int = 14,
        pad_input: bool = True,
        in_token_limit: int = 4096,
        merge_kernel_size: Sequence[int] = (2, 2),
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.pad_input = pad_input
        self.in_token_limit = in_token_limit
        self.merge_kernel_size = list(merge_kernel_size)

    def rescale(self, image: PIL.Image.Image, merge_kernel_size: Sequence[int] = (2, 2)) -> PIL.Image.Image:
        """Brings an image to a size of whole patches."""
        size = self.patch_size
        patches = (image.width // size) * (image.height // size)
        if patches > self.in_token_limit:
            scale = math.sqrt(self.in_token_limit / patches)
            image = image.resize((int(image.width * scale), int(image.height * scale)), PIL.Image.Resampling.BICUBIC)
        if self.pad_input:
            height, width = (unit * size for unit in merge_kernel_size)
            canvas = (-(-image.width // width) * width, -(-image.height // height) * height)
            padded = PIL.Image.new(image.mode, canvas)
            padded.paste(image, (0, 0))
            image = padded
        else:
            width, height = image.width // size * size, image.height // size * size
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        if max(image.size) // size >= _LONGEST_SIDE:
            raise ValueError("Exceed pos emb")
        return image

    def preprocess(
        self, images: PIL.Image.Image | Sequence[PIL.Image.Image], return_tensors: str | None = None, **kwargs: object
    ) -> BatchFeature:
        """Makes `pixel_values` `(num_patches, 3, patch_size, patch_size)` and `image_grid_hws` `(num_images, 2)`."""
        size = self.patch_size
        patches, grids = [], []
        for image in [images] if isinstance(images, PIL.Image.Image) else images:
            scaled = self.rescale(image.convert("RGB"), self.merge_kernel_size)
            pixels = torch.from_numpy(np.asarray(scaled).copy()).permute(2, 0, 1).float().div(255)
            pixels = (pixels - 0.5) / 0.5
            cut = pixels.unfold(1, size, size).unfold(2, size, size)  # (3, rows, columns, size, size)
            patches.append(cut.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size))
            grids.append((scaled.height // size, scaled.width // size))
        data = {"pixel_values": torch.cat(patches), "image_grid_hws": np.array(grids)}
        return BatchFeature(data, tensor_type=return_tensors)


class KimiVLProcessor(StandInProcessor):
    """Kimi-VL."""

    image_processor_type = KimiVLImageProcessor

    def __init__(
        self,
        image_processor: KimiVLImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
        **kwargs: object,
    ) -> None:
        self.image_token = "<|media_pad|>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(
        self,
        images: Sequence[PIL.Image.Image] | None = None,
        text: str | Sequence[str] | None = None,
        padding: bool = False,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes a batch of texts with a media token for each image, and of all images."""
        texts = [text] if isinstance(text, str) else list(text or [])
        media = self.image_processor(images, return_tensors=return_tensors) if images else {}
        merged = math.prod(self.image_processor.merge_kernel_size)
        counts = iter([math.prod(grid) // merged for grid in media["image_grid_hws"].tolist()] if images else [])
        expanded = []
        for one in texts:
            first, *rest = one.split(self.image_token)
            expanded.append(first + "".join(self.image_token * next(counts) + chunk for chunk in rest))
        return BatchFeature({**self.tokenizer(expanded, padding=padding, return_tensors=return_tensors), **media})


def build_kimi_vl() -> KimiVLProcessor:
    """Kimi-VL with the settings of Kimi-VL-A3B-Instruct."""
    tokenizer = build_tokenizer(
        _TOKENS.split(),
        bos_token="[BOS]",
        eos_token="[EOS]",
        pad_token="[PAD]",
    )
    return KimiVLProcessor(KimiVLImageProcessor(), tokenizer, chat_template=_CHAT_TEMPLATE)
