"""The limits of `MediaOptions` on what a media item may take, beside that on the pixels of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdatasets.errors import MediaLimitError

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions


def check_bytes(num_bytes: int, options: MediaOptions, source: str) -> None:
    """Refuses what is longer than `byte_limit`.

    Raises:
        MediaLimitError: Naming the length and the limit.
    """
    if num_bytes > options.byte_limit:
        raise exceeded(f"it has {num_bytes:,} bytes", "byte_limit", options.byte_limit, source)


def check_num_frames(num_frames: int, options: MediaOptions, source: str) -> None:
    """Refuses a video of more frames than `video_frame_limit`.

    Raises:
        MediaLimitError: Naming the number and the limit.
    """
    if num_frames > options.video_frame_limit:
        raise exceeded(f"the video has {num_frames:,} frames", "video_frame_limit", options.video_frame_limit, source)


def check_num_samples(num_samples: int, options: MediaOptions, source: str) -> None:
    """Refuses audio of more samples of each channel than `audio_sample_limit`.

    Raises:
        MediaLimitError: Naming the number and the limit.
    """
    if num_samples > options.audio_sample_limit:
        what = f"the audio has {num_samples:,} samples"
        raise exceeded(what, "audio_sample_limit", options.audio_sample_limit, source)


def check_video_pixels(num_frames: int, width: int, height: int, options: MediaOptions, source: str) -> None:
    """Refuses a video of which the frames that are taken have more pixels together than `video_pixel_limit`.

    Raises:
        MediaLimitError: Naming the number and the limit.
    """
    pixels = num_frames * width * height
    if pixels > options.video_pixel_limit:
        raise exceeded(
            f"{num_frames:,} frames of {width}x{height} are to be taken, {pixels:,} pixels",
            "video_pixel_limit",
            options.video_pixel_limit,
            source,
            "take fewer (video_max_frames, video_fps), ",
        )


def exceeded(what: str, name: str, limit: int, source: str, otherwise: str = "") -> MediaLimitError:
    """The error of a media item that exceeds a limit."""
    return MediaLimitError(
        f"{what}, more than MediaOptions.{name} = {limit:,}; {otherwise}raise the limit or leave it out", source=source
    )
