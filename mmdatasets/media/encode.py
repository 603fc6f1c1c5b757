"""Storing decoded images without losing anything that decoding would give."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import PIL.ImageFile

from mmdatasets.media.orientation import upright
from mmdatasets.types import StoredMedia

if TYPE_CHECKING:
    from mmdatasets.media.arrays import ImageArray

# Modes that PNG stores as they are, so that converting to RGB gives the same before and after.
_PNG_MODES = ("1", "L", "LA", "RGB", "RGBA")


def store_pil_image(image: PIL.Image.Image) -> StoredMedia:
    """Stores a PIL image: as the file it was opened from if nothing was loaded or changed, else as PNG, upright."""
    if isinstance(image, PIL.ImageFile.ImageFile) and _is_untouched(image) and image.filename:
        # Absolute, so that it means the same file under every `media_root`.
        return StoredMedia(bytes=None, path=str(Path(os.fsdecode(image.filename)).absolute()))
    image = upright(image)
    return StoredMedia(bytes=_png(image if image.mode in _PNG_MODES else image.convert("RGB")), path=None)


def array_to_png(array: ImageArray) -> bytes:
    """Stores an image array as RGB PNG."""
    from mmdatasets.media.arrays import array_to_rgb
    from mmdatasets.media.source import describe_source

    pixels = array_to_rgb(array, describe_source(array)).permute(1, 2, 0)
    return _png(PIL.Image.fromarray(pixels.numpy()))


def _is_untouched(image: PIL.ImageFile.ImageFile) -> bool:
    # Tiles are what is left to load (WebP sets them when it loads), a decoder configuration is a draft size, and
    # frames after the first have no file of their own.
    unloaded = image.fp is not None and (bool(image.tile) or image.format == "WEBP")
    return unloaded and not image.decoderconfig and image.tell() == 0


def _png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
