"""The one resize of this package: for a pixel budget that the model's processor has no argument for."""

from __future__ import annotations

import PIL.Image
import torch
from torchvision.transforms.v2 import functional as tv


def resize(pixels: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resizes an image, or frames, as Pillow does it with bicubic interpolation, up to rounding.

    Args:
        pixels: `torch.uint8` `(..., 3, height, width)`.
        width: Pixels.
        height: Pixels.
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    if width == 1:
        return _single_column(pixels, height)
    resized: torch.Tensor = tv.resize(
        pixels, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True
    )
    return resized


def _single_column(pixels: torch.Tensor, height: int) -> torch.Tensor:
    """By Pillow: torch mistakes tensors of a single column for channels last, and fails or gives other pixels."""
    images = [tv.to_pil_image(image) for image in pixels.reshape(-1, *pixels.shape[-3:])]
    columns = [tv.pil_to_tensor(image.resize((1, height), PIL.Image.Resampling.BICUBIC)) for image in images]
    return torch.stack(columns).reshape(*pixels.shape[:-2], height, 1)
