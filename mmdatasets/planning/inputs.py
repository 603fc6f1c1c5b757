"""What processors are given of media, and what becomes of the outputs of several calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from mmdatasets.types import AudioShape, ImageInfo, MediaInput, MediaShape, VideoShape

Outputs: TypeAlias = dict[str, object]
"""What a processor makes of media, by the names under which the model takes it."""

_STEADY = 0.25
"""Share of a frame's duration by which timestamps of a steady rate may be off: containers round them."""


def join_outputs(parts: Sequence[Outputs], frames_are_independent: bool) -> Outputs:
    """Joins what a processor made of videos one by one, along the first axis.

    Args:
        parts: The outputs for each video.
        frames_are_independent: Whether the model treats every frame by itself. Where tensors differ in the second
            axis, that of the frames, they then become `(1, num_frames, ...)` with the frames of all videos.

    Raises:
        ValueError: If tensors cannot be joined.
    """
    joined: Outputs = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if all(isinstance(value, torch.Tensor) for value in values):
            tensors: list[torch.Tensor] = values  # type: ignore[assignment]
            if len({tensor.shape[1:] for tensor in tensors}) > 1:
                if not frames_are_independent:
                    raise ValueError(f"videos of different frame counts make {name} that do not fit in one tensor")
                tensors = [tensor.flatten(0, 1)[None] for tensor in tensors]
                joined[name] = torch.cat(tensors, dim=1)
            else:
                joined[name] = torch.cat(tensors)
        else:
            joined[name] = [item for value in values for item in value]  # type: ignore[attr-defined]
    return joined


def as_tensor(value: object) -> object:
    """A list of numbers as a tensor, as processors return it with `return_tensors="pt"`; anything else as it is."""
    numbers = isinstance(value, list) and bool(value) and all(isinstance(item, int | float) for item in value)
    return torch.tensor(value) if numbers else value


def describe_shape(shape: MediaShape) -> str:
    """A shape in words, for errors."""
    if isinstance(shape, ImageInfo):
        return f"{shape.width}x{shape.height} pixels"
    if isinstance(shape, VideoShape):
        return f"{len(shape.frames.indices)} frame(s) of {shape.width}x{shape.height} pixels"
    return f"{shape.num_samples} samples of audio"


def video_metadata(shape: VideoShape) -> VideoMetadata:
    """What a processor is told of a video, anew for each call, since some processors change it.

    Processors compute the time of a frame as its index divided by the rate. Where the rate varies, the indices are
    those that give the frames' own times.
    """
    indices: list[int] | list[float] = list(shape.frames.indices)
    times = shape.frames.timestamps_s
    if times is not None and shape.fps:
        off = max(abs(index / shape.fps - time) for index, time in zip(indices, times, strict=True))
        if off > _STEADY / shape.fps:
            indices = [time * shape.fps for time in times]
    return VideoMetadata(
        total_num_frames=shape.num_source_frames,
        fps=shape.fps,
        width=shape.width,
        height=shape.height,
        duration=shape.duration_s,
        frames_indices=indices,
    )


def image_input(image: torch.Tensor) -> MediaInput:
    """An image `(3, height, width)` with its shape."""
    return MediaInput(ImageInfo(width=image.shape[2], height=image.shape[1]), image)


def blank_input(shape: MediaShape, device: str) -> MediaInput:
    """A black, silent item of a shape. On the device `"meta"` it has no data."""
    if isinstance(shape, AudioShape):
        return MediaInput(shape, np.zeros(shape.num_samples, dtype=np.float32))
    if isinstance(shape, ImageInfo):
        return MediaInput(shape, torch.zeros((3, shape.height, shape.width), dtype=torch.uint8, device=device))
    size = (len(shape.frames.indices), 3, shape.height, shape.width)
    # One pixel for all: the frames of a long video would take gigabytes.
    frames = torch.zeros((1, 1, 1, 1), dtype=torch.uint8, device=device).expand(size)
    sound = None if shape.num_samples is None else np.zeros(shape.num_samples, dtype=np.float32)
    return MediaInput(shape, frames, sound)
