"""The oracle for videos and audio: full decodes, and the processor's own call on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.video_utils import VideoMetadata


def full_decode(path: str | Path) -> torch.Tensor:
    """Every frame of an upright video: `uint8` `(num_frames, 3, height, width)`."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def wav_samples(path: str | Path) -> np.ndarray:
    """The samples of a mono WAV file."""
    return soundfile.read(path, dtype="float32")[0]


def metadata_of(record: Mapping[str, object]) -> VideoMetadata:
    """What a caller who samples frames himself tells a processor of them, from a row's `media_info`."""
    return VideoMetadata(
        total_num_frames=record["num_source_frames"],
        fps=record["fps"],
        width=record["width"],
        height=record["height"],
        duration=record["duration_s"],
        frames_indices=list(record["frame_indices"]),
    )


def own_call(
    processor: ProcessorMixin,
    texts: Sequence[str],
    *,
    images: Sequence[Sequence[object]] = (),
    videos: Sequence[tuple[torch.Tensor, VideoMetadata]] = (),
    audio: Sequence[np.ndarray] = (),
    **kwargs: object,
) -> BatchFeature:
    """The processor's call on rendered texts and decoded media, right-padded."""
    given: dict[str, object] = {}
    if any(images):
        given["images"] = [list(row) for row in images]
    if videos:
        given["videos"] = [frames for frames, _ in videos]
        own = {"do_sample_frames": False, "video_metadata": [metadata for _, metadata in videos]}
        if "return_metadata" not in kwargs:
            own["return_metadata"] = True
        given["videos_kwargs"] = own | dict(kwargs.pop("videos_kwargs", {}))
    if audio:
        given["audio"] = list(audio)
    made = processor(
        text=list(texts),
        return_tensors="pt",
        text_kwargs={"padding": True, "padding_side": "right", "add_special_tokens": False},
        **given,
        **kwargs,
    )
    made.pop("video_metadata", None)
    return made


def assert_same(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """The same names, types and values, apart from what the model takes and the processor does not say."""
    assert set(ours) - {"labels", "use_audio_in_video"} == set(theirs)
    for name in theirs:
        mine, other = torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])
        assert mine.dtype == other.dtype, name
        assert mine.shape == other.shape, name
        assert torch.equal(mine, other), name
