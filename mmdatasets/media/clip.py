"""Taking a reference to a video apart: what is decoded, how fast it runs, which part of it is meant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from mmdatasets.errors import MediaReferenceError
from mmdatasets.media.numbers import as_float, shown
from mmdatasets.media.source import describe_source, is_array


@dataclass(frozen=True, slots=True, eq=False)
class VideoClip:
    """A reference to a video, taken apart.

    Attributes:
        reference: What is decoded: a file, in any form that `mmdatasets.media.source.open_source` takes, or a sequence
            of image references, its frames.
        fps: Frames per second of a list of frames; `None` where nobody says, and for files, which say it themselves.
        start_s: Seconds, from the first frame on, at which the part that is meant begins; `None`: the beginning.
        end_s: Seconds at which it ends; `None`: the end.
    """

    reference: object
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None


def split_clip(reference: object) -> VideoClip:
    """Takes a reference to a video apart.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.VideoReference`.

    Raises:
        MediaReferenceError: A mapping has both a file and frames, or its `fps`, `start` or `end` make no sense.
    """
    if not isinstance(reference, Mapping):
        return VideoClip(reference)
    start, end = _seconds(reference, "start"), _seconds(reference, "end")
    if start is not None and end is not None and start >= end:
        raise MediaReferenceError(
            f"'start' ({start:g} s) must be before 'end' ({end:g} s)", source=describe_source(reference)
        )
    frames, fps = reference.get("frames"), _number(reference, "fps")
    if frames is None:
        if fps is not None:
            raise MediaReferenceError(
                "'fps' belongs to a list of 'frames': a file says its own; how many frames are sampled is set by "
                "MediaOptions.video_fps",
                source=describe_source(reference),
            )
        rest = {key: value for key, value in reference.items() if key not in ("start", "end")}
        return VideoClip(rest, None, start, end)
    if reference.get("path") is not None or reference.get("bytes") is not None:
        raise MediaReferenceError(
            "a video is either 'frames' or a file ('path' or 'bytes'), this mapping has both",
            source=describe_source(reference),
        )
    if not is_frame_list(frames):
        raise MediaReferenceError(
            f"'frames' must be a list of images, got {type(frames).__name__}", source=describe_source(reference)
        )
    if fps == 0:
        raise MediaReferenceError("'fps' must be greater than 0", source=describe_source(reference))
    if fps is None and (start is not None or end is not None):
        raise MediaReferenceError(
            "'start' and 'end' are seconds, which needs the 'fps' of the frames", source=describe_source(reference)
        )
    return VideoClip(frames, fps, start, end)


def is_frame_list(reference: object) -> TypeGuard[Sequence[object]]:
    """Whether a reference is a list of frames: a sequence of images, or an array `(num_frames, ...)` of them."""
    if is_array(reference):
        return len(reference.shape) == 4
    return isinstance(reference, Sequence) and not isinstance(reference, (str, bytes, bytearray, memoryview))


def _seconds(reference: Mapping[str, object], key: str) -> float | None:
    return _number(reference, key, " seconds")


def _number(reference: Mapping[str, object], key: str, unit: str = "") -> float | None:
    value = reference.get(key)
    if value is None:
        return None
    number = as_float(value)
    if not 0 <= number < math.inf:
        raise MediaReferenceError(
            f"{key!r} must be a number of{unit or ' frames per second'}, 0 or more, got {shown(value)}",
            source=describe_source(reference),
        )
    return number
