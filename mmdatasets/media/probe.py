"""What an image becomes, from its header alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mmdatasets.media.bounded import is_bounded, run_bounded
from mmdatasets.media.header import check_pixels, open_image, with_truncated
from mmdatasets.media.orientation import orientation_of, oriented_size
from mmdatasets.media.source import describe_source, is_array, is_pil_image, reading
from mmdatasets.media.webp import read_webp_header
from mmdatasets.types import ImageInfo

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions


def probe_image(reference: object, options: MediaOptions) -> ImageInfo:
    """Reads the size that `decode_image` will give, without decoding anything.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.ImageReference`.
        options: `allow_truncated`, the limits, and what says where media may be read from are used.

    Returns:
        Width and height in pixels, after EXIF orientation.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no image reference.
        MediaDecodeError: The file is no image, or its header is damaged.
        MediaLimitError: The header announces more pixels than `image_pixel_limit`, or there are more bytes than
            `byte_limit`.
        MediaTimeoutError: It takes longer than `decode_timeout_s`.
    """
    if is_bounded(reference, options):
        return cast("ImageInfo", run_bounded("probe_image", reference, options=options))
    if is_array(reference):
        from mmdatasets.media.arrays import array_size

        source = describe_source(reference)
        return _checked(array_size(reference, source), options, source)
    if is_pil_image(reference):
        size = oriented_size(reference, getattr(reference, "fp", None))
        return _checked(size, options, describe_source(reference))
    with reading(reference, options) as file, with_truncated(options):
        source = describe_source(reference)
        webp = read_webp_header(file)
        if webp is None:
            return ImageInfo(*oriented_size(open_image(file, options, source), file))
    size = (webp.width, webp.height)
    return _checked(size[::-1] if orientation_of(webp.info) >= 5 else size, options, source)


def _checked(size: tuple[int, int], options: MediaOptions, source: str) -> ImageInfo:
    check_pixels(size, options, source)
    return ImageInfo(*size)
