"""How MiniCPM-V 2.6's published image processor slices images, and what it writes for them; see `minicpmv`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, BatchFeature

_Size = tuple[int, int]

TOKENS = {
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
}
"""Attributes of the tokenizer, and the tokens around an image, its slices and its number."""


class MiniCPMVImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Slices images. Attributes as published; those not needed here are left out."""

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        max_slice_nums: int = 9,
        scale_resolution: int = 448,
        patch_size: int = 14,
        use_image_id: bool = True,
        image_feature_size: int = 64,
        version: float = 2.6,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.max_slice_nums = max_slice_nums
        self.scale_resolution = scale_resolution
        self.patch_size = patch_size
        self.use_image_id = use_image_id
        self.image_feature_size = image_feature_size
        self.version = version

    def get_sliced_grid(self, image_size: _Size, max_slice_nums: int) -> _Size | None:
        """Columns and rows of slices whose shape is nearest to the image's; `None` for an image small enough."""
        width, height = image_size
        wanted = min(math.ceil(width * height / self.scale_resolution**2), max_slice_nums)
        if wanted <= 1:
            return None
        counts = [count for count in (wanted - 1, wanted, wanted + 1) if 1 < count <= max_slice_nums]
        grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
        aspect = math.log(width / height)
        return min(grids, key=lambda grid: abs(aspect - math.log(grid[0] / grid[1])))

    def get_image_id_placeholder(self, idx: int = 0) -> str:
        """The text that numbers an image."""
        return f"{TOKENS['im_id_start']}{idx}{TOKENS['im_id_end']}"

    def get_slice_image_placeholder(
        self,
        image_size: _Size,
        image_idx: int = 0,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
    ) -> str:
        """The text that an image of a size `(width, height)` becomes."""
        features = "<unk>" * self.image_feature_size
        numbered = self.use_image_id if use_image_id is None else use_image_id
        text = self.get_image_id_placeholder(image_idx) if numbered else ""
        text += TOKENS["im_start"] + features + TOKENS["im_end"]
        width, height = (int(side) for side in image_size)
        grid = self.get_sliced_grid((width, height), max_slice_nums or self.max_slice_nums)
        if grid is not None:
            row = (TOKENS["slice_start"] + features + TOKENS["slice_end"]) * grid[0]
            text += "\n".join([row] * grid[1])
        return text

    def _whole(self, length: float, unit: int) -> int:
        return max(round(length / unit) * unit, unit)

    def _fit(self, width: float, height: float, upscale: bool) -> _Size:
        """Near `scale_resolution` squared pixels, in whole patches; smaller ones only where `upscale` says so."""
        if upscale or width * height > self.scale_resolution**2:
            ratio = width / height
            height = int(self.scale_resolution / math.sqrt(ratio))
            width = int(height * ratio)
        return self._whole(width, self.patch_size), self._whole(height, self.patch_size)

    def _slices(self, image: PIL.Image.Image, max_slice_nums: int) -> list[PIL.Image.Image]:
        grid = self.get_sliced_grid(image.size, max_slice_nums)
        bicubic = PIL.Image.Resampling.BICUBIC
        overview = image.resize(self._fit(*image.size, upscale=grid is None), bicubic)
        if grid is None:
            return [overview]
        cell_width, cell_height = (self._whole(side, n) / n for side, n in zip(image.size, grid, strict=True))
        width, height = self._fit(cell_width, cell_height, upscale=True)
        resized = image.resize((width * grid[0], height * grid[1]), bicubic)
        corners = [(column * width, row * height) for row in range(grid[1]) for column in range(grid[0])]
        return [overview, *(resized.crop((x, y, x + width, y + height)) for x, y in corners)]

    def _patches(self, image: PIL.Image.Image) -> torch.Tensor:
        """`(3, patch_size, patch_size * num_patches)`: the image's patches side by side."""
        pixels = (np.asarray(image, dtype=np.float32) / 255 - np.float32(0.5)) / np.float32(0.5)
        size = self.patch_size
        rows, columns = image.height // size, image.width // size
        cut = pixels.reshape(rows, size, columns, size, 3).transpose(4, 1, 0, 2, 3)
        return torch.from_numpy(np.ascontiguousarray(cut.reshape(3, size, -1)))

    def preprocess(
        self,
        images: Sequence[Sequence[PIL.Image.Image]],
        do_pad: bool = True,
        max_slice_nums: int | None = None,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Makes `pixel_values`, `image_sizes` and `tgt_sizes`, each a list with an entry for each row."""
        data: dict[str, list[object]] = {"pixel_values": [], "image_sizes": [], "tgt_sizes": []}
        for row in images:
            slices = [
                part
                for image in row
                for part in self._slices(image.convert("RGB"), max_slice_nums or self.max_slice_nums)
            ]
            sizes = [(part.height // self.patch_size, part.width // self.patch_size) for part in slices]
            data["pixel_values"].append([self._patches(part) for part in slices])
            data["image_sizes"].append([torch.tensor(image.size) for image in row])
            data["tgt_sizes"].append(torch.tensor(sizes) if sizes else [])
        return BatchFeature(data)
