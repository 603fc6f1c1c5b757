"""Images, videos and audio of MiniCPM-V and MiniCPM-o 2.6, as their model cards use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmdatasets.errors import MediaProcessorError, MMDatasetsError
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.planning.runs import collapse_runs
from mmdatasets.plugins.remote_code import as_pil, refusing
from mmdatasets.types import Expansion, ImageInfo, MediaInput, MediaShape, VideoShape

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

IMAGE_TAG = "(<image>./</image>)"
AUDIO_TAG = "(<audio>./</audio>)"
VIDEO_TAG = "(<video>./</video>)"
"""Where a video's frames go. The first two are the processors' own; of this one the processors know nothing."""

VIDEO_SLICES = 2
"""`max_slice_nums` for a chat with a video in the model cards, which also set `use_image_id` to false there."""

PER_ROW = ("pixel_values", "image_sizes", "tgt_sizes")
"""What the image processor returns, with an entry for each row."""

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


def slice_limit(shapes: Sequence[MediaShape]) -> int | None:
    """The most slices of an image in a row of these items; the image processor's own limit when `None`."""
    return VIDEO_SLICES if any(isinstance(shape, VideoShape) for shape in shapes) else None


def place(runner: ProcessorRunner, shape: MediaShape, limit: int | None) -> Expansion:
    """What an item of a row with this limit on slices becomes in the text, without its number."""
    if isinstance(shape, ImageInfo):
        return place_image(runner, shape, limit)
    if not isinstance(shape, VideoShape):
        return place_audio(runner, shape.num_samples)
    if shape.num_samples is not None:
        raise MediaProcessorError("a video's sound is not supported beside its frames: use_audio_in_video=False")
    frame, count = place_image(runner, ImageInfo(shape.width, shape.height), limit), len(shape.frames.indices)
    return Expansion("\n".join([frame.text] * count), frame.runs * count)


def place_image(runner: ProcessorRunner, info: ImageInfo, limit: int | None) -> Expansion:
    """The image processor's own text for an image of this size, without its number."""
    place = runner.processor.image_processor.get_slice_image_placeholder
    with refusing():
        text = place((info.width, info.height), max_slice_nums=limit, use_image_id=False)
    return collapse_runs(text, runner.image_token)


def slice_row(
    runner: ProcessorRunner, row: Sequence[MediaInput], expansions: Sequence[Expansion]
) -> Mapping[str, object]:
    """What the image processor makes of a row's images and frames."""
    pictures = as_pil(pictures_of(row))
    if not pictures:
        return {name: [] for name in PER_ROW}
    limit = slice_limit([item.shape for item in row])
    with refusing():
        outputs = runner.processor.image_processor([pictures], max_slice_nums=limit, return_tensors="pt")
    seen = zip(row, expansions, strict=True)
    expected = sum(len(expansion.runs) for item, expansion in seen if item.modality != "audio")
    if len(outputs["pixel_values"][0]) != expected:
        raise MediaProcessorError(
            f"the model's image processor made {len(outputs['pixel_values'][0])} slices of images that it planned "
            f"{expected} for"
        )
    return {name: outputs[name][0] for name in PER_ROW}


def find_bounds(ids: np.ndarray, starts: Sequence[int], ends: Sequence[int]) -> torch.Tensor:
    """`(num_spans, 2)`: what stands between the tokens that start and end a span, as a half-open range."""
    first, last = (torch.from_numpy(np.flatnonzero(np.isin(ids, tokens))) for tokens in (starts, ends))
    if len(first) != len(last):
        raise MMDatasetsError(
            f"a row has {len(first)} tokens that start an image or audio and {len(last)} that end one: do not cut "
            "input_ids"
        )
    return torch.stack([first + 1, last], dim=1)
