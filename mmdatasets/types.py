"""Value types that pass between the stages. They check their own invariants at construction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    import torch

Modality: TypeAlias = Literal["image", "video", "audio"]

MODALITIES: tuple[Modality, ...] = ("image", "video", "audio")

ImageReference: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, object] | PIL.Image.Image | np.ndarray | torch.Tensor"
)
"""Every form in which a row may refer to an image.

A string is a local path, an fsspec URL (`memory://`, `hf://`, `s3://`, ...; `http(s)://` only where
`MediaOptions.allow_http` is set) or a `data:` URI. A mapping is `{"path": ..., "bytes": ...}`, as
`datasets.Image(decode=False)` gives it. Arrays are `uint8`, `(height, width)`, `(height, width, channels)` or
`(channels, height, width)`.
"""


class StoredMedia(TypedDict):
    """A media item as Arrow stores it: the struct of `datasets.Image(decode=False)`."""

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's header says.

    Attributes:
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image must be at least 1x1 pixels, got {self.width}x{self.height}")


@dataclass(frozen=True, slots=True)
class Expansion:
    """What one media item becomes in the text.

    A run of the media token is kept as one token in `text` and its length in `runs`, so that a tokenizer never sees
    thousands of placeholder characters.

    Attributes:
        text: The processor's replacement text with every run of the media token shortened to one token.
        runs: Length of each run, in the order of the text.
    """

    text: str
    runs: tuple[int, ...]

    @property
    def num_media_tokens(self) -> int:
        """How many media tokens the item becomes, which is how many features the model must produce."""
        return sum(self.runs)
