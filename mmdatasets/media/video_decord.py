"""Decoding videos with decord, of which the package `decord2` is kept up."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from mmdatasets.errors import MediaDecodeError, MissingExtraError
from mmdatasets.media.video_verified import FoundFrames, decode_verified

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import FramePlan

_NO_FAULT = 1e-9  # share of frames that decord may make up


def decode_with_decord(file: BinaryIO, plan: FramePlan, options: MediaOptions, source: str) -> torch.Tensor:
    """Decodes the planned frames; see `mmdatasets.media.video.decode_frames`.

    Raises:
        MissingExtraError: decord is not installed.
    """
    if importlib.util.find_spec("decord") is None:
        raise MissingExtraError.for_package("decord2", "decord", "video_backend='decord'")
    return decode_verified(_read, "decord", file, plan, options, source, needs_closed_groups=True)


def _read(file: BinaryIO, indices: Sequence[int], source: str) -> FoundFrames:
    decord = importlib.import_module("decord")
    try:
        # A path would be opened by FFmpeg with all its protocols and demuxers.
        reader = decord.VideoReader(io.BytesIO(file.read()), num_threads=1, fault_tol=_NO_FAULT)
        batch = reader.get_batch(list(indices))
        times = np.asarray(reader.get_frame_timestamp([0, *indices]), dtype=np.float64)[:, 0]
        num_frames = len(reader)
    except Exception as error:  # its own class, and what its bindings raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MediaDecodeError(f"decord cannot decode it: {reason}", source=source) from error
    # `decord.bridge` may have set what batches are.
    frames = torch.from_numpy(batch.asnumpy()) if hasattr(batch, "asnumpy") else torch.as_tensor(batch)
    return FoundFrames(frames, times[1:], float(times[0]), num_frames)
