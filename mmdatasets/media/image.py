"""Decoding images to RGB tensors, bit for bit as `transformers.image_utils.load_image` does."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import torch

from mmdatasets.errors import MediaDecodeError, MediaError, MissingExtraError
from mmdatasets.media.arrays import array_to_rgb
from mmdatasets.media.bounded import is_bounded, run_bounded
from mmdatasets.media.header import check_pixels, open_image, with_truncated, without_pillow_limit
from mmdatasets.media.orientation import oriented_size, read_orientation, upright
from mmdatasets.media.source import describe_source, is_array, is_pil_image, reading

if TYPE_CHECKING:
    import PIL.Image
    from PIL.ImageFile import ImageFile

    from mmdatasets.options import MediaOptions

# Format -> modes (as Pillow names them) for which torchcodec gives Pillow's pixels, as the tests prove. It differs for
# PNG of 16 bits a channel (it scales where Pillow cuts or clips) and for AVIF with alpha, which it multiplies in.
_TORCHCODEC_MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("L", "RGB"),
}
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}
_LARGEST_FILE = 1 << 30  # bytes: Pillow reads what it needs of a file, torchcodec takes the whole
_PNG_BIT_DEPTH_AT = 24  # the signature, length and name of IHDR, width, height


def decode_image(reference: object, options: MediaOptions) -> torch.Tensor:
    """Decodes an image to RGB, upright.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.ImageReference`.
        options: `image_backend`, `allow_truncated`, the limits, and what says where media may be read from are used.
            The backend changes the speed, never the pixels.

    Returns:
        `uint8` tensor `(3, height, width)`, of which a pixel's channels may be stored side by side, as decoders give
        them and as resizing is fastest (then it is not contiguous): for files and PIL images what
        `transformers.image_utils.load_image` gives, of animations the first frame; for arrays see
        `mmdatasets.media.arrays.array_to_rgb`.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no image reference.
        MediaDecodeError: The file is no image, or is damaged.
        MediaLimitError: The header announces more pixels than `image_pixel_limit`, or there are more bytes than
            `byte_limit`.
        MediaTimeoutError: It takes longer than `decode_timeout_s`.
        MissingExtraError: `image_backend` is `"torchcodec"` and that is not installed.
    """
    if is_bounded(reference, options):
        return cast("torch.Tensor", run_bounded("decode_image", reference, options=options))
    decode_file = _torchcodec(options)
    source = describe_source(reference)
    if is_array(reference):
        from mmdatasets.media.arrays import array_size

        check_pixels(array_size(reference, source), options, source)
        return array_to_rgb(reference, source)
    if is_pil_image(reference):
        check_pixels(reference.size, options, source)
        return _decode_with_pillow(reference, None, source)
    with reading(reference, options) as file, with_truncated(options):
        image = open_image(file, options, source)
        if decode_file is not None:
            pixels = _decode_with_torchcodec(decode_file, image, file)
            if pixels is not None:
                return pixels
            image = open_image(file, options, source)
        return _decode_with_pillow(image, file, source)


def _decode_with_pillow(image: PIL.Image.Image, file: BinaryIO | None, source: str) -> torch.Tensor:
    width, height = oriented_size(image, file or getattr(image, "fp", None))
    try:
        with without_pillow_limit(width * height):
            turned = upright(image)
            if file is not None:
                # Changes no pixel, but spares the user a warning about palettes whose transparency is dropped.
                turned.info.pop("transparency", None)
            pixels = np.array(turned if turned.mode == "RGB" else turned.convert("RGB"))
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # plugins raise what their parsers raise
        raise MediaDecodeError(
            f"the header says {width}x{height} ({image.format}), but the pixel data is truncated or damaged: {error}",
            source=source,
        ) from error
    if pixels.shape != (height, width, 3):
        raise MediaDecodeError(
            f"the header says {width}x{height}, but the pixel data is {pixels.shape[1]}x{pixels.shape[0]}",
            source=source,
        )
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _torchcodec_equals_pillow(image: ImageFile, file: BinaryIO) -> bool:
    """Whether torchcodec is known to give Pillow's pixels for an image of which the header is read."""
    if image.mode not in _TORCHCODEC_MODES.get(image.format or "", ()) or getattr(image, "is_animated", False):
        return False
    if image.format == "PNG":
        file.seek(_PNG_BIT_DEPTH_AT)
        if file.read(1) == b"\x10":
            return False
    return read_orientation(image, file) == 1


def _decode_with_torchcodec(
    decode: Callable[[torch.Tensor], torch.Tensor], image: ImageFile, file: BinaryIO
) -> torch.Tensor | None:
    """Decodes a whole file; gives `None` where Pillow should have the last word."""
    try:
        if not _torchcodec_equals_pillow(image, file) or file.seek(0, io.SEEK_END) > _LARGEST_FILE:
            return None
        file.seek(0)
        data = bytearray(file.read())  # writable: torch warns about buffers that are not
    except OSError:  # of a disk, say: Pillow's error says so
        return None
    if not data.endswith(_ENDS.get(image.format or "", b"")):
        return None  # possibly cut off, which torchcodec does not always notice
    try:
        pixels = decode(torch.frombuffer(data, dtype=torch.uint8))
    except Exception:  # Pillow decides whether the file is damaged, and says how
        return None
    if pixels.shape != (3, image.height, image.width):
        return None
    return pixels


def _torchcodec(options: MediaOptions) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The decoder of torchcodec, where the options want it and it can be had."""
    if options.image_backend == "pillow":
        return None
    decode, problem = _load_torchcodec()
    if decode is None and options.image_backend == "torchcodec":
        error = MissingExtraError.for_package("torchcodec", "torchcodec", "image_backend='torchcodec'")
        error.message = f"{error.message} ({problem})"
        raise error
    return decode


@functools.cache
def _load_torchcodec() -> tuple[Callable[[torch.Tensor], torch.Tensor] | None, str]:
    """The decoder, or why there is none. Decided once per process: a build for another torch fails at its import."""
    if importlib.util.find_spec("torchcodec") is None:
        return None, "it is not installed"
    try:
        from torchcodec.decoders import decode_image as decode
    except Exception as error:
        return None, f"it is installed, but cannot be loaded: {error}"
    return decode, ""
