"""Images that are arrays already, read as the image processors of transformers read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from mmdatasets.errors import MediaReferenceError

if TYPE_CHECKING:
    import numpy.typing as npt

    ImageArray: TypeAlias = npt.NDArray[np.uint8] | torch.Tensor

_CHANNEL_COUNTS = (1, 3, 4)


def array_size(array: ImageArray, source: str) -> tuple[int, int]:
    """Width and height, in pixels, of an image array; see `array_to_rgb`."""
    dtype, shape = str(array.dtype).removeprefix("torch."), tuple(array.shape)
    if dtype != "uint8":
        raise MediaReferenceError(
            f"an image array must be uint8 with values 0 to 255, got {dtype}; convert it first", source=source
        )
    if 0 in shape:
        raise MediaReferenceError("an image array must have at least one pixel", source=source)
    if len(shape) == 2:
        return shape[1], shape[0]
    if len(shape) == 3 and shape[0] in _CHANNEL_COUNTS:  # ambiguous shapes are read channels first
        return shape[2], shape[1]
    if len(shape) == 3 and shape[2] in _CHANNEL_COUNTS:
        return shape[1], shape[0]
    raise MediaReferenceError(
        "an image array must have the shape (height, width), (height, width, channels) or (channels, height, width) "
        "with 1, 3 or 4 channels",
        source=source,
    )


def array_to_rgb(array: ImageArray, source: str) -> torch.Tensor:
    """Makes an RGB tensor of an image array.

    The channel axis is the one that `transformers.image_utils.infer_channel_dimension_format` finds for 1, 3 or 4
    channels: the first where both would do. Grey is repeated, and alpha is laid over white, as in the `convert_to_rgb`
    of the torchvision image processors.

    Args:
        array: `uint8`, `(height, width)`, `(height, width, channels)` or `(channels, height, width)`.
        source: Description for errors.

    Returns:
        A new `uint8` tensor `(3, height, width)` on the CPU.

    Raises:
        MediaReferenceError: Another dtype or shape.
    """
    array_size(array, source)
    if isinstance(array, torch.Tensor):
        if array.is_meta:
            raise MediaReferenceError("a tensor on the meta device has no pixels", source=source)
        image = array.detach().cpu()
    else:
        # The copy takes read-only arrays and negative strides, which torch refuses.
        image = torch.from_numpy(np.array(array, dtype=np.uint8, order="C", subok=False))
    if image.ndim == 2:
        image = image[None]
    elif image.shape[0] not in _CHANNEL_COUNTS:
        image = image.permute(2, 0, 1)
    if image.shape[0] == 4:
        return _over_white(image)
    return image.expand(3, -1, -1).clone(memory_format=torch.contiguous_format)


def _over_white(image: torch.Tensor) -> torch.Tensor:
    """Lays an RGBA image `(4, height, width)` over white."""
    from torchvision.transforms.v2.functional import to_dtype

    scaled = to_dtype(image, torch.float32, scale=True)
    blended = scaled[:3] * scaled[3:] + (1 - scaled[3:])
    result: torch.Tensor = to_dtype(blended, torch.uint8, scale=True)
    return result.contiguous()
