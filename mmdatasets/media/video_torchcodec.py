"""Decoding videos with torchcodec, which needs an FFmpeg of the system's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.audio_torchcodec import require_torchcodec
from mmdatasets.media.video_verified import FoundFrames, decode_verified

if TYPE_CHECKING:
    import torch

    from mmdatasets.options import MediaOptions
    from mmdatasets.types import FramePlan


def decode_with_torchcodec(file: BinaryIO, plan: FramePlan, options: MediaOptions, source: str) -> torch.Tensor:
    """Decodes the planned frames; see `mmdatasets.media.video.decode_frames`.

    Raises:
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    require_torchcodec("video_backend='torchcodec'")
    return decode_verified(_read, "torchcodec", file, plan, options, source, needs_closed_groups=False)


def _read(file: BinaryIO, indices: Sequence[int], source: str) -> FoundFrames:
    from torchcodec.decoders import VideoDecoder

    try:
        # Made anew each time: it cannot be pickled. Only "exact" counts the frames.
        decoder = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        found = decoder.get_frames_at(list(indices))
        first_s = decoder.metadata.begin_stream_seconds_from_content
        num_frames = decoder.metadata.num_frames
    except Exception as error:  # a RuntimeError mostly, but what FFmpeg says comes in other types, too
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MediaDecodeError(f"torchcodec cannot decode it: {reason}", source=source) from error
    times = np.asarray(found.pts_seconds, dtype=np.float64)
    return FoundFrames(found.data, times, float(first_s or 0.0), int(num_frames or 0))
