"""How Arrow keeps a reference to a video."""

from __future__ import annotations

from collections.abc import Mapping

from mmdatasets.media.clip import is_frame_list, split_clip
from mmdatasets.media.source import to_stored
from mmdatasets.types import StoredMedia


def video_to_stored(reference: object) -> tuple[StoredMedia, list[StoredMedia]]:
    """Makes what Arrow stores of a video: the struct of `datasets.Video(decode=False)`, and its frames.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.VideoReference`. Of a decoder object of
            `datasets` the file that it was made of is stored.

    Returns:
        The file, and no frames; or an empty file, and the frames as images.

    Raises:
        MediaReferenceError: The value is no video reference.
    """
    encoded = getattr(reference, "_hf_encoded", None)
    inner = split_clip(encoded if isinstance(encoded, Mapping) else reference).reference
    if is_frame_list(inner):
        return StoredMedia(bytes=None, path=None), [to_stored(frame) for frame in inner]
    return to_stored(inner), []
