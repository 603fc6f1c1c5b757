"""Pixel budgets: as the size arguments of a processor, and for processors that have none."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmdatasets.types import ImageInfo


def fit_pixels(
    info: ImageInfo, min_pixels: int | None = None, max_pixels: int | None = None, multiple: int = 1
) -> ImageInfo:
    """The size to which an image is resized before the processor sees it, so that it keeps a pixel budget.

    The aspect ratio is kept up to rounding: down to whole pixels for the upper bound, up for the lower one. An image
    inside the budget keeps its size.

    Args:
        info: Size of the image.
        min_pixels: Lower bound on width x height.
        max_pixels: Upper bound on width x height. A side never falls below one pixel (or `multiple`), so that an
            extremely long image may stay above the bound.
        multiple: What the processor rounds sides to multiples of. Where that would exceed the upper bound, the sides
            are rounded down to multiples instead.

    Returns:
        The new size.
    """
    pixels = info.width * info.height
    rounded = round(info.width / multiple) * round(info.height / multiple) * multiple**2
    if max_pixels is not None and max(pixels, rounded) > max_pixels:
        scale = min(1.0, math.sqrt(max_pixels / pixels)) / multiple
        return ImageInfo(*(max(1, int(side * scale)) * multiple for side in (info.width, info.height)))
    if min_pixels is not None and pixels < min_pixels:
        scale = math.sqrt(min_pixels / pixels)
        return ImageInfo(math.ceil(info.width * scale), math.ceil(info.height * scale))
    return info


def size_between(own: Mapping[str, int], low: int | None, high: int | None) -> dict[str, int]:
    """A processor's `size` of `shortest_edge` and `longest_edge`, which count pixels, with other bounds."""
    shortest, longest = low or own["shortest_edge"], high or own["longest_edge"]
    if low is None:
        # A budget near the processor's own minimum moves the minimum along: sides are rounded up from it by up to a
        # block each, which are twice the side at most.
        shortest = min(shortest, max(1, longest // 4))
    elif high is None:
        longest = max(shortest, longest)
    return {"shortest_edge": shortest, "longest_edge": longest}
