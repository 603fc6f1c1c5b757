"""The EXIF orientation of an image: read from its header alone, and applied.

What counts as the orientation is what `PIL.ImageOps.exif_transpose` honours: the EXIF block, or else the XMP block.
This is the one place that knows it, so that the probed size and the decoded pixels cannot disagree.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, BinaryIO

import PIL.ExifTags
import PIL.Image
import PIL.PngImagePlugin
import PIL.TiffImagePlugin

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRANSPOSES = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
# EXIF values may be rationals, which compare equal to integers, or tuples, which do not.
_ORIENTATIONS = {orientation: orientation for orientation in range(1, 9)}
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def read_orientation(image: PIL.Image.Image, file: BinaryIO | None) -> int:
    """Reads the EXIF orientation of an image, without decoding it.

    An EXIF block that cannot be read counts as none.

    Args:
        image: The image; of a file's image, nothing needs to be loaded.
        file: The file that the image was opened from, `None` where there is none. Its position is kept.

    Returns:
        1 (upright) to 8, as the EXIF standard numbers them.
    """
    try:
        if isinstance(image, PIL.PngImagePlugin.PngImageFile) and image.tile and file is not None:
            # Metadata may stand behind the pixels. Pillow finds it by decoding; walking the chunks is enough.
            return orientation_of({**image.info, **_late_png_metadata(file, animated=image.is_animated)})
    except Exception:  # the parser raises whatever a damaged block leads it to
        return 1
    return _orientation(image)


def orientation_of(info: Mapping[str | tuple[int, int], object]) -> int:
    """The EXIF orientation, 1 to 8, that an image's metadata gives, under the names of `PIL.Image.Image.info`."""
    holder = PIL.Image.Image()
    holder.info = dict(info)
    return _orientation(holder)


def _orientation(image: PIL.Image.Image) -> int:
    try:
        # Not image.getexif(): that of a PNG decodes the whole image.
        orientation = PIL.Image.Image.getexif(image).get(PIL.ExifTags.Base.Orientation, 1)
        return _ORIENTATIONS.get(orientation, 1)
    except Exception:
        return 1


def oriented_size(image: PIL.Image.Image, file: BinaryIO | None) -> tuple[int, int]:
    """Width and height, in pixels, that an image has once it is upright, without decoding it."""
    width, height = image.size
    swapped = False
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        # Pillow gives the size of a TIFF upright, unless it is XMP that says how to turn it.
        swapped = image.tag_v2.get(PIL.ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if read_orientation(image, file) >= 5 and not swapped else (width, height)


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Turns an image upright; loads it. Gives the image itself where there is nothing to turn."""
    image.load()  # first: a TIFF is turned by this
    method = _TRANSPOSES.get(read_orientation(image, None))
    return image if method is None else image.transpose(method)


def _late_png_metadata(file: BinaryIO, *, animated: bool) -> dict[str | tuple[int, int], object]:
    """The metadata that stands behind a PNG's pixels, as Pillow parses it."""
    chunks = list(_late_png_chunks(file, animated=animated))
    if not chunks:
        return {}
    parser = PIL.PngImagePlugin.PngStream(io.BytesIO())
    for kind, data in chunks:
        parser.fp = io.BytesIO(data)
        parser.call(kind, 0, len(data))
    return parser.im_info


def _late_png_chunks(file: BinaryIO, *, animated: bool) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each metadata chunk behind the first IDAT chunk, as far as the first frame goes."""
    read = _reader_at(file)
    position, pixels_seen = 8, False
    while len(header := read(position, 8)) == 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if kind == b"IEND" or (kind == b"fcTL" and pixels_seen and animated):
            return
        if kind == b"IDAT":
            if not pixels_seen:
                position = _end_of_equal_chunks(read, _size(file), position, header)
            pixels_seen = True
        elif pixels_seen and kind in _PNG_METADATA:
            yield kind, read(position + 8, length)
        position += 12 + length


def _end_of_equal_chunks(read: Callable[[int, int], bytes], size: int, start: int, header: bytes) -> int:
    """Where the last one of a run of chunks lies that all have the header of the first one.

    Encoders write pixels in many chunks of one length. Of a remote file, looking at each would read all of it; a chunk
    that is found where the run must have led to tells as much, as nothing but IDAT may lie between IDAT chunks.
    """
    step = int.from_bytes(header[:4], "big") + 12

    def is_in_run(number: int) -> bool:
        return read(start + number * step, 8) == header

    most = (size - start) // step
    for number in range(most, max(0, most - 3), -1):  # where nothing, or little, follows the pixels
        if is_in_run(number):
            return start + number * step
    low, high = 0, 1
    while is_in_run(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_in_run(middle) else (low, middle)
    return start + low * step


def _size(file: BinaryIO) -> int:
    found_at = file.tell()
    try:
        return file.seek(0, io.SEEK_END)
    finally:
        file.seek(found_at)


def _reader_at(file: BinaryIO) -> Callable[[int, int], bytes]:
    """A function (position, length) -> bytes that keeps the file's position."""
    if isinstance(file, io.BufferedReader) and hasattr(os, "pread"):
        # A seek in a buffered file fills its whole buffer, for the 8 bytes of a chunk's header.
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        # Bounded, since a damaged length would be allocated.
        return lambda position, length: os.pread(descriptor, max(0, min(length, size - position)), position)

    def read(position: int, length: int) -> bytes:
        found_at = file.tell()
        try:
            file.seek(position)
            return file.read(length)
        finally:
            file.seek(found_at)

    return read
