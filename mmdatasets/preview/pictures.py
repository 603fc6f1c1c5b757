"""Pictures and sound as small as a page needs them: compressed pictures in `data:` URIs, envelopes as SVG paths."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

if TYPE_CHECKING:
    import torch

_LONGEST = 640
"""Pixels of the longer side of a picture on the page; the model may see more."""
_SHORTEST = 48
_QUALITIES = (78, 60, 45)
_SMALLER = 0.9
_HOPELESS = 2  # times too long, where a lower quality alone does not help


def to_data_uri(pixels: torch.Tensor, width: int | None, height: int | None, max_chars: int) -> str:
    """A picture as a `data:` URI of a WebP file.

    Args:
        pixels: `torch.uint8` `(3, height, width)`.
        width: Pixels to which the model's processor resizes it; its own when `None`.
        height: Likewise.
        max_chars: Length that the URI is to have at most; it is made smaller until it has, or is 48 pixels long.
    """
    image = PIL.Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    wanted = (width or image.width, height or image.height)
    scale = min(1.0, _LONGEST / max(wanted))
    while True:
        size = tuple(max(1, round(side * scale)) for side in wanted)
        small = image.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)  # type: ignore[arg-type]
        for quality in _QUALITIES:
            uri = _encode(small, quality)
            if len(uri) <= max_chars or len(uri) > _HOPELESS * max_chars:
                break
        if len(uri) <= max_chars or max(size) <= _SHORTEST:
            return uri
        # About as many characters for each pixel of the smaller picture, a few more for its finer detail.
        scale *= _SMALLER * min(1.0, (max_chars / len(uri)) ** 0.5)


def _encode(image: PIL.Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=3)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def envelope(samples: np.ndarray, steps: int) -> str:
    """The envelope of a waveform as an SVG path: the highest sample of each step, then the lowest ones back.

    Args:
        samples: `(num_samples,)`, full scale being 1.
        steps: Into how many steps it is divided.
    """
    count = max(1, min(steps, len(samples)))
    starts = np.linspace(0, len(samples), count, endpoint=False).astype(np.int64)
    highest = np.clip(np.maximum.reduceat(samples, starts), -1, 1)
    lowest = np.clip(np.minimum.reduceat(samples, starts), -1, 1)
    # Silence is a line, too.
    highest, lowest = np.maximum(highest, 0.01), np.minimum(lowest, -0.01)
    there = [f"{place},{_short(-value)}" for place, value in enumerate(highest)]
    back = [f"{place},{_short(-value)}" for place, value in reversed(list(enumerate(lowest)))]
    return f"M{'L'.join([*there, *back])}Z"


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-0.", "-.").replace("0.", ".", 1) or "0"
