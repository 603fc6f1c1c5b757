"""Videos and audio of MiniCPM-V and MiniCPM-o 2.6, as their model cards use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorRunner, collapse_runs
from mmdatasets.plugins.remote_code import refusing
from mmdatasets.types import Expansion, MediaInput

if TYPE_CHECKING:
    import torch
    from transformers.video_utils import VideoMetadata

IMAGE_TAG = "(<image>./</image>)"
AUDIO_TAG = "(<audio>./</audio>)"
VIDEO_TAG = "(<video>./</video>)"
"""Where a video's frames go. The first two are the processors' own; of this one the processors know nothing."""

VIDEO_SLICES = 2
"""`max_slice_nums` for a chat with a video in the model cards, which also set `use_image_id` to false there."""

_MAX_FRAMES = 64
_DEFAULT_FPS = 1.0
_CHUNK_S = 1
"""Seconds of audio between two audio tokens: the default of the processor's `audio_feature_extract`."""


def sample_frames(metadata: VideoMetadata, wanted: Mapping[str, object]) -> list[int]:
    """The frames that the model cards take.

    One a second, or, where these are more than 64, those in the middle of 64 equal parts of them.

    Args:
        metadata: How many frames there are, and their rate. Without a rate all frames are candidates.
        wanted: `fps` or `num_frames` instead of the cards' numbers, where the user says so.
    """
    limit, fps = wanted.get("num_frames"), wanted.get("fps", _DEFAULT_FPS)
    step = 1 if limit is not None or not metadata.fps else max(1, round(metadata.fps / float(fps)))  # type: ignore[arg-type]
    candidates = range(0, metadata.total_num_frames, step)
    most = int(limit or _MAX_FRAMES)  # type: ignore[call-overload]
    if len(candidates) <= most:
        return list(candidates)
    part = len(candidates) / most
    return [candidates[int(index * part + part / 2)] for index in range(most)]


def pictures_of(row: Sequence[MediaInput]) -> list[torch.Tensor]:
    """The images of a row and the frames of its videos, `(3, height, width)`, in the order of the text."""
    per_item: Iterator[Sequence[torch.Tensor]] = (
        list(item.data) if item.modality == "video" else [item.data]  # type: ignore[list-item]
        for item in row
        if item.modality != "audio"
    )
    return list(chain.from_iterable(per_item))


def place_audio(runner: ProcessorRunner, num_samples: int) -> Expansion:
    """What the processor writes for audio in chunks, which is how the model's own chat calls it.

    Raises:
        MediaProcessorError: If the audio is so short that the model makes no feature of it.
    """
    processor = runner.processor
    with refusing():
        if hasattr(processor, "get_audio_placeholder"):
            text = processor.get_audio_placeholder(num_samples, True, _CHUNK_S)
        else:  # the first revisions do not tell without making the features
            text = _extract(runner, [[np.zeros(num_samples, dtype=np.float32)]])[2][0][0]
    expansion = collapse_runs(text, runner.feature_tokens["audio"])
    if not expansion.runs:
        raise MediaProcessorError(f"the model makes no feature of {num_samples} samples of audio: it is too short")
    return expansion


def extract_audio(
    runner: ProcessorRunner, rows: Sequence[Sequence[MediaInput]]
) -> tuple[dict[str, object], list[Expansion]]:
    """Runs the feature extractor on the audio of a batch; each item is a part of its own.

    Returns:
        `audio_features` and `audio_feature_lens`, nothing where there is no audio; and what each item becomes.
    """
    audios: list[list[np.ndarray]] = [[item.data for item in row if item.modality == "audio"] for row in rows]  # type: ignore[misc]
    if not any(audios):
        return {}, []
    with refusing():
        features, lengths, texts = _extract(runner, audios)
    token = runner.feature_tokens["audio"]
    expansions = [collapse_runs(text, token) for text in chain.from_iterable(texts)]
    return {"audio_features": features, "audio_feature_lens": lengths}, expansions


def _extract(
    runner: ProcessorRunner, audios: Sequence[Sequence[np.ndarray]]
) -> tuple[object, object, Sequence[Sequence[str]]]:
    extract = runner.processor.audio_feature_extract
    result: tuple[object, object, Sequence[Sequence[str]]] = extract(
        audios, audio_parts=None, chunk_input=True, sampling_rate=runner.sampling_rate
    )
    return result
