"""Videos that are lists of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import MediaDecodeError, MediaError, MediaReferenceError
from mmdatasets.media.frame_writer import FrameWriter
from mmdatasets.media.image import decode_image
from mmdatasets.media.source import describe_source
from mmdatasets.media.timeline import check_plan
from mmdatasets.types import VideoInfo

if TYPE_CHECKING:
    import torch

    from mmdatasets.options import MediaOptions
    from mmdatasets.types import FloatArray, FramePlan, ImageInfo


def probe_frames(
    frames: Sequence[object], fps: float | None, source: str, probe: Callable[[object], ImageInfo]
) -> VideoInfo:
    """Reads the headers of a list of frames; see `mmdatasets.media.video.probe_video`."""
    if not len(frames):
        raise MediaReferenceError("a list of frames must have at least one", source=source)
    first = _probe(0, frames[0], probe)
    for index in range(1, len(frames)):
        info = _probe(index, frames[index], probe)
        if info != first:
            raise MediaDecodeError(
                f"frame {index} ({describe_source(frames[index])}) is {info.width}x{info.height} pixels, frame 0 is "
                f"{first.width}x{first.height}; the frames of a video must have one size",
                source=source,
            )
    return VideoInfo(
        width=first.width,
        height=first.height,
        num_frames=len(frames),
        timestamps_s=_times(len(frames), fps),
        fps=fps,
        duration_s=None if fps is None else len(frames) / fps,
        is_frame_list=True,
    )


def decode_frame_list(
    frames: Sequence[object], plan: FramePlan, fps: float | None, options: MediaOptions, source: str
) -> torch.Tensor:
    """Decodes the planned ones of a list of frames; see `mmdatasets.media.video.decode_frames`."""
    check_plan(plan, len(frames), _times(len(frames), fps), source)
    writer = FrameWriter(plan.indices, source, options)
    for index in sorted(writer.missing):
        try:
            image = decode_image(frames[index], options)
        except MediaError as error:
            raise _in_frame(error, index) from error
        writer.write(index, image.permute(1, 2, 0).numpy())
    return writer.finish()


def _times(num_frames: int, fps: float | None) -> FloatArray | None:
    return None if fps is None else np.arange(num_frames, dtype=np.float64) / fps


def _probe(index: int, frame: object, probe: Callable[[object], ImageInfo]) -> ImageInfo:
    try:
        return probe(frame)
    except MediaError as error:
        raise _in_frame(error, index) from error


def _in_frame(error: MediaError, index: int) -> MediaError:
    """The error of an image, saying which frame it is."""
    return type(error)(f"frame {index}: {error.message}", source=error.source)
