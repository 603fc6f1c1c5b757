"""Which part of its sound track belongs to a video or a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mmdatasets.media.clip import VideoClip

SOUND = "sound"
"""Key of a mapping that refers to a video that was materialised: the file of its sound, in place of a track."""

SoundRange: TypeAlias = tuple[float, float | None]
"""Where sound begins and ends, in seconds from the first sample on; with the file when `None`."""


def sound_range(clip: VideoClip, late_s: float) -> SoundRange:
    """The part of a sound track, in seconds from its first sample on, that belongs to a part of a video.

    Args:
        clip: The part of the video.
        late_s: How many seconds after the first frame the first sample is to be heard.
    """
    if not clip.start_s and clip.end_s is None:
        return 0.0, None
    return max(0.0, (clip.start_s or 0.0) - late_s), None if clip.end_s is None else clip.end_s - late_s
