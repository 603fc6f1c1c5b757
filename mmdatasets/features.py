"""The Arrow schema of a mapped dataset: value types <-> `datasets.Features`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from datasets import Features, Image, List, Value

SCHEMA_VERSION = 1
"""Raised whenever the meaning or type of a column changes; part of every plugin's fingerprint."""

INPUT_IDS = "input_ids"
LABELS = "labels"
LENGTH = "length"
MEDIA_INFO = "media_info"
IMAGES = "images"


class MediaRecord(TypedDict):
    """One media item of a row, in the order of the text.

    Attributes:
        modality: `"image"`.
        width: Pixels after EXIF orientation, as the header says.
        height: Pixels after EXIF orientation, as the header says.
        start: First token of the item's media span in `input_ids`, the family's delimiters included.
        end: One past the last token of the media span.
        num_tokens: Media tokens in the span, which is how many features the model produces for the item.
    """

    modality: str
    width: int
    height: int
    start: int
    end: int
    num_tokens: int


def media_info_feature() -> List:
    """The feature of the `media_info` column: a list of `MediaRecord`."""
    return List(
        {
            "modality": Value("string"),
            "width": Value("int32"),
            "height": Value("int32"),
            "start": Value("int32"),
            "end": Value("int32"),
            "num_tokens": Value("int32"),
        }
    )


def image_list_feature() -> List:
    """The feature of a media column of images: undecoded references, a path or the file's bytes each."""
    return List(Image(decode=False))


def tokenised_features(source: Features | None = None, replaced: Iterable[str] = ()) -> Features:
    """Features of the rows that a plugin's transform returns.

    Args:
        source: Features of the dataset that is mapped. Its columns pass through, except the `replaced` ones.
        replaced: Columns of `source` that the transform consumes.

    Returns:
        The features, the transform's own columns last.
    """
    own = {
        INPUT_IDS: List(Value("int32")),
        LABELS: List(Value("int32")),
        LENGTH: Value("int32"),
        MEDIA_INFO: media_info_feature(),
        IMAGES: image_list_feature(),
    }
    gone = set(replaced) | set(own)
    kept = {name: feature for name, feature in (source or {}).items() if name not in gone}
    return Features({**kept, **own})
