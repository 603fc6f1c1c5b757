"""The one place where every default of media handling stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

ImageBackend: TypeAlias = Literal["auto", "pillow", "torchcodec"]

IMAGE_PIXEL_LIMIT = 2**27  # 134 megapixels: above a 108-megapixel phone photo, below Pillow's own error at 179


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """How media is read and sized. `None` leaves a choice to the model's own processor.

    Attributes:
        image_max_pixels: Upper bound on the pixels (width x height) that the processor resizes an image to.
        image_min_pixels: Lower bound on the same.
        image_pixel_limit: Images with more pixels in their header are refused before any decoding.
        image_backend: `"pillow"` decodes with Pillow. `"torchcodec"` decodes with torchcodec the formats for which
            it equals Pillow bit for bit, the others with Pillow. `"auto"` is `"torchcodec"` where that is installed
            and usable, else `"pillow"`; the pixels are the same.
        media_root: Directory that relative local paths are resolved against; the working directory when `None`.
        allow_http: Whether `http://` and `https://` references may be opened.
    """

    image_max_pixels: int | None = None
    image_min_pixels: int | None = None
    image_pixel_limit: int = IMAGE_PIXEL_LIMIT
    image_backend: ImageBackend = "auto"
    media_root: str | None = None
    allow_http: bool = False

    def __post_init__(self) -> None:
        for name in ("image_max_pixels", "image_min_pixels", "image_pixel_limit"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer (pixels) or None, got {value!r}")
        if self.media_root is not None and "://" in self.media_root:
            raise ValueError(f"media_root must be a local directory, got {self.media_root!r}")
        low, high = self.image_min_pixels, self.image_max_pixels
        if low is not None and high is not None and low > high:
            raise ValueError(f"image_min_pixels ({low}) must not exceed image_max_pixels ({high})")
        if self.image_backend not in ("auto", "pillow", "torchcodec"):
            raise ValueError(f"image_backend must be 'auto', 'pillow' or 'torchcodec', got {self.image_backend!r}")
