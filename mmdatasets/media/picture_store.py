"""Files of one or several pictures that are decoded as fast as they are read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch
from PIL.TiffImagePlugin import TiffImageFile

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.media.header import check_pixels, open_image
from mmdatasets.media.source import describe_source, reading

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.ImageFile import ImageFile

    from mmdatasets.options import MediaOptions

_DESCRIPTION = 270  # TIFF 6.0, section 8
_ONE_STRIP = 2**31 - 1
"""More bytes than a picture has: TIFF then keeps all of it in one piece."""


def write_pictures(pictures: Mapping[str, torch.Tensor], quality: int | None = None) -> bytes:
    """Writes a file of pictures with names. The same pictures give the same bytes.

    Without a quality it is an uncompressed TIFF: 3 bytes a pixel, decoded in the time that copying takes. What
    compresses without loss (PNG, WebP) is a third to a half smaller, and takes longer to decode than a JPEG of a size
    that processors scale to.

    Args:
        pictures: `torch.uint8` `(3, height, width)` each, RGB. Names are ASCII, without line breaks.
        quality: 1 to 100, for a JPEG (of several pictures: a TIFF of such) instead.
    """
    first, *others = (
        PIL.Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pictures.values()
    )
    buffer, names = io.BytesIO(), "\n".join(pictures)
    if quality is not None and not others:
        first.save(buffer, "JPEG", quality=quality, comment=names)
    elif quality is None:
        first.save(buffer, "TIFF", save_all=True, append_images=others, strip_size=_ONE_STRIP, description=names)
    else:
        # Half the size of RGB in a TIFF, where Pillow does not convert by itself.
        first, *others = (image.convert("YCbCr") for image in (first, *others))
        several = {"save_all": True, "append_images": others, "strip_size": _ONE_STRIP, "description": names}
        first.save(buffer, "TIFF", compression="jpeg", quality=quality, **several)
    return buffer.getvalue()


def read_pictures(reference: object, options: MediaOptions) -> dict[str, torch.Tensor]:
    """Reads what `write_pictures` wrote.

    Args:
        reference: A media reference to a file; see `mmdatasets.media.source.open_source`.
        options: `image_pixel_limit`, `media_root` and `allow_http` are used.

    Returns:
        By their names `torch.uint8` `(3, height, width)` each, every channel in one block of memory: what processors
        compute with pixels after resizing takes half as long as with the channels of a pixel side by side.

    Raises:
        MediaNotFoundError: The path or URL cannot be opened.
        MediaReferenceError: The value is no reference to a file.
        MediaDecodeError: The file is damaged, or another one.
        MediaLimitError: A picture has more pixels than `image_pixel_limit`.
    """
    source = describe_source(reference)
    with reading(reference, options) as file:
        content = file.read()
    image = open_image(io.BytesIO(content), options, source)
    pictures = {}
    try:
        for number, name in enumerate(_names(image)):
            image.seek(number)
            check_pixels(image.size, options, source)
            pictures[name] = _read(image, content)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise what their parsers raise
        raise MediaDecodeError(f"the stored pictures are damaged: {error}", source=source) from error
    return pictures


def _names(image: ImageFile) -> list[str]:
    comment = image.tag_v2.get(_DESCRIPTION) if isinstance(image, TiffImageFile) else image.info.get("comment")
    names = comment.decode("ascii") if isinstance(comment, bytes) else comment
    if not isinstance(names, str):
        raise ValueError("it does not say what its pictures are")
    return names.split("\n")


def _read(image: ImageFile, content: bytes) -> torch.Tensor:
    """The picture at which a file stands; of an uncompressed one, as it lies in the file."""
    width, height = image.size
    length = 3 * width * height
    if len(image.tile) == 1 and image.mode == "RGB":
        codec, extents, offset, arguments = image.tile[0]
        if codec == "raw" and extents == (0, 0, width, height) and arguments == ("RGB", 0, 1):
            if offset + length > len(content):
                raise ValueError("the file is cut off")
            pixels = np.frombuffer(content, dtype=np.uint8, count=length, offset=offset)
            return _planar(pixels.reshape(height, width, 3))
    return _planar(np.asarray(image.convert("RGB")))


def _planar(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
