"""Which frames of a video are taken: named policies, pure functions of what is known of the video and the options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdatasets.errors import MediaDecodeError, MediaError, MediaProcessorError, MediaReferenceError
from mmdatasets.options import MediaOptions
from mmdatasets.types import FramePlan, MediaPlan, MediaReference, VideoInfo

PLANNED = "planned"
"""Key of a mapping that refers to a mapped row's video: what was planned of it, see `MediaPlan`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """What a row wants of a video.

    Attributes:
        start_s: Where the wanted part begins, in seconds from the video's first frame; its beginning when `None`.
        end_s: Where the wanted part ends; the video's end when `None`.
        indices: Exactly these frames of the whole video, if given; they must lie in the wanted part.
    """

    start_s: float | None = None
    end_s: float | None = None
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """The outcome of sampling.

    Attributes:
        frames: The frames to take; indices and timestamps are those of the whole video, also for a part of it.
        num_source_frames: How many frames there were to choose from.
        duration_s: Seconds that they cover; `None` where nothing tells.
    """

    frames: FramePlan
    num_source_frames: int
    duration_s: float | None


ProcessorSampler = Callable[[int, float | None, float | None, dict[str, object]], "Sequence[int] | None"]
"""The model's own policy: number of frames, their rate and duration in seconds, and what the user wants (`fps` or
`num_frames`), to indices; `None` for all of them."""


def sample(info: VideoInfo, clip: Clip, options: MediaOptions, by_processor: ProcessorSampler) -> Sampled:
    """Chooses frames.

    Lists of frames count as sampled already: they are taken whole unless a policy other than the processor's, or
    `indices`, is given.

    Args:
        info: What is known of the video.
        clip: What the row wants of it.
        options: `video_sampling` and its settings are used.
        by_processor: The model's own policy.

    Raises:
        MediaDecodeError: If the wanted part has no frame, or an index is none of the video's.
        MediaProcessorError: If the processor's own policy cannot sample the video. Says which options can.
        MediaError: If the policy needs a rate that nothing tells.
    """
    first, last = _range(info, clip)
    count = last - first
    duration = _duration(info, clip)
    if clip.indices is not None:
        chosen = _explicit(clip.indices, first, last)
    else:
        chosen = first + _bounded(_by_policy(info, first, last, duration, options, by_processor), count, options)
    times = None if info.timestamps_s is None else tuple(info.timestamps_s[chosen].tolist())
    try:
        frames = FramePlan(tuple(chosen.tolist()), times)
    except ValueError as error:
        raise MediaError(f"the frames that are sampled of the video cannot be used: {error}") from error
    return Sampled(frames, count, duration)


def planned_video(reference: MediaReference) -> MediaPlan | None:
    """The plan that a reference to a mapped row's video stands for, as long as it names the frames of the plan."""
    plan = reference.get(PLANNED) if isinstance(reference, Mapping) else None
    if not isinstance(plan, MediaPlan) or plan.frames is None:
        return None
    indices = check_indices(reference.get("indices"))  # type: ignore[union-attr]
    return plan if plan.frames.indices == indices else None


def check_indices(indices: object) -> tuple[int, ...] | None:
    """The `indices` of a reference to a video; `None` where there are none.

    Raises:
        MediaReferenceError: If they are no list of integers.
    """
    if indices is None:
        return None
    listed = indices.tolist() if isinstance(indices, np.ndarray) else indices
    if not isinstance(listed, list | tuple) or not all(type(index) is int for index in listed):
        raise MediaReferenceError(f"'indices' must be a list of integers, the frames to take, got {indices!r}")
    return tuple(listed)


def _range(info: VideoInfo, clip: Clip) -> tuple[int, int]:
    """The frames that are displayed in the wanted part, as a half-open range."""
    if clip.start_s is None and clip.end_s is None:
        return 0, info.num_frames
    if info.timestamps_s is None:
        raise MediaError("a part of a video was asked for in seconds, but its frames have no rate: give 'fps'")
    start, end = clip.start_s or 0.0, np.inf if clip.end_s is None else clip.end_s
    if not 0 <= start < end:
        raise MediaError(f"'start' must be at least 0 and before 'end', got {start} and {end} seconds")
    first = max(0, int(np.searchsorted(info.timestamps_s, start, side="right")) - 1)
    last = int(np.searchsorted(info.timestamps_s, end, side="left"))
    if info.duration_s is not None and start >= info.duration_s:
        raise MediaDecodeError(f"the part from {start} s on is wanted of a video of {info.duration_s:.3f} s")
    return first, max(last, first + 1)


def _duration(info: VideoInfo, clip: Clip) -> float | None:
    if info.duration_s is None:
        return None
    end = info.duration_s if clip.end_s is None else min(clip.end_s, info.duration_s)
    return end - (clip.start_s or 0.0)


def _explicit(indices: Sequence[int], first: int, last: int) -> npt.NDArray[np.int64]:
    wrong = [index for index in indices if not first <= index < last]
    if wrong or not indices:
        raise MediaDecodeError(
            f"'indices' must name frames from {first} to {last - 1}, got {wrong[0] if wrong else 'none'}"
        )
    return np.array(indices, dtype=np.int64)


def _by_policy(
    info: VideoInfo,
    first: int,
    last: int,
    duration: float | None,
    options: MediaOptions,
    by_processor: ProcessorSampler,
) -> npt.NDArray[np.int64]:
    """Positions in the wanted part, before the bounds on their number."""
    count = last - first
    match options.video_sampling:
        case "all":
            return np.arange(count)
        case "uniform":
            return spread(count, options.video_num_frames or count)
        case "fps":
            return _by_rate(info, first, last, duration, options.video_fps or 1.0)
        case "processor":
            wanted = {"fps": options.video_fps, "num_frames": options.video_num_frames}
            given: dict[str, object] = {name: value for name, value in wanted.items() if value is not None}
            indices = None if info.is_frame_list else _ask(by_processor, count, info.fps, duration, given)
            if indices is None:
                return np.arange(count)
            return _within(np.asarray(indices, dtype=np.int64), count)


def _ask(
    by_processor: ProcessorSampler, count: int, fps: float | None, duration: float | None, wanted: dict[str, object]
) -> Sequence[int] | None:
    try:
        return by_processor(count, fps, duration, wanted)
    except MediaProcessorError as error:
        raise MediaProcessorError(
            f"the processor's own policy cannot sample a video of {count} frame(s) ({error.message}); set "
            "MediaOptions(video_sampling='uniform', video_num_frames=...), which takes all where there are fewer, "
            "video_sampling='fps' with video_fps, or video_sampling='all'"
        ) from error.__cause__


def _by_rate(info: VideoInfo, first: int, last: int, duration: float | None, fps: float) -> npt.NDArray[np.int64]:
    """The frames that are on display every `1 / fps` seconds, from the first one on."""
    if info.timestamps_s is None or duration is None:
        raise MediaError("video_sampling='fps' needs the rate of the frames: give 'fps', or sample otherwise")
    times = info.timestamps_s[first:last]
    ticks = times[0] + np.arange(max(1, int(duration * fps + 1e-6))) / fps
    found = np.searchsorted(times, ticks + 1e-6, side="right") - 1
    return _within(found, last - first)


def _within(positions: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    return np.minimum(np.maximum(positions, 0), count - 1, dtype=np.int64)


def _bounded(positions: npt.NDArray[np.int64], count: int, options: MediaOptions) -> npt.NDArray[np.int64]:
    """Brings the number of frames within the options' bounds, as far as there are frames."""
    if options.video_max_frames is not None and len(positions) > options.video_max_frames:
        return positions[spread(len(positions), options.video_max_frames)]
    lowest = min(options.video_min_frames or 0, count)
    return spread(count, lowest) if len(positions) < lowest else positions


def spread(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """`wanted` positions spread evenly over `count`, the first and the last among them; all where there are fewer."""
    if wanted >= count:
        return np.arange(count)
    if wanted == 1:
        return np.array([0])
    positions: npt.NDArray[np.int64] = np.linspace(0, count - 1, wanted).round().astype(np.int64)
    return positions
