"""What audio will be, from its info alone: sample counts, and the pieces that long audio is taken in."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import MediaDecodeError, MediaLimitError
from mmdatasets.media.waveform import resampled_length

if TYPE_CHECKING:
    from mmdatasets.media.waveform import Waveform
    from mmdatasets.options import LongAudio, MediaOptions
    from mmdatasets.types import AudioInfo

LENGTH_TOLERANCE_S = 0.1
"""Seconds by which decoded audio may miss its plan: versions of FFmpeg differ in how they cut an AAC stream's start
and end, by at most two frames, which are 0.05 s at 44.1 kHz."""

SHORTEST_CHUNK_S = 1.0


def planned_num_samples(
    info: AudioInfo, options: MediaOptions, sampling_rate: int, *, start_s: float = 0.0, end_s: float | None = None
) -> int:
    """How many samples `decode_audio` gives, from the info alone.

    Args:
        info: What `probe_audio` gave.
        options: `audio_resampler` and `audio_sample_limit` are used.
        sampling_rate: The rate wanted, as for `decode_audio`.
        start_s: As for `decode_audio`.
        end_s: As for `decode_audio`.

    Raises:
        MediaDecodeError: The range holds no sample of the audio.
        MediaLimitError: They are more than `audio_sample_limit`, or one rate is more than 256 times the other.
        ValueError: The range is no range: negative, not finite, or it ends before it starts.
    """
    start, end = sample_range(info, start_s, end_s)
    length = resampled_length(end - start, info.sampling_rate, sampling_rate, options.audio_resampler)
    if length > options.audio_sample_limit:
        raise MediaLimitError(
            f"{end - start:,} samples at {info.sampling_rate} Hz are {length:,} at {sampling_rate} Hz, more than "
            f"MediaOptions.audio_sample_limit = {options.audio_sample_limit:,}; raise the limit or leave it out"
        )
    return length


def sample_range(info: AudioInfo, start_s: float = 0.0, end_s: float | None = None) -> tuple[int, int]:
    """The half-open range of samples, at the audio's own rate, that lies between two times; see `decode_audio`."""
    start, end = sample_bounds(info.sampling_rate, start_s, end_s)
    end = info.num_samples if end is None else min(end, info.num_samples)
    if start >= end:
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise MediaDecodeError(
            f"there is no sound from {start_s:g} s to {until}: the audio is {info.duration_s:g} s long"
        )
    return start, end


def sample_bounds(sampling_rate: int, start_s: float, end_s: float | None) -> tuple[int, int | None]:
    """Times in seconds as positions of samples, rounded to the nearest."""
    end = math.inf if end_s is None else end_s
    if not 0 <= start_s < end or (end_s is not None and math.isinf(end_s)):
        raise ValueError(f"a range of audio needs 0 <= start_s < end_s, got start_s={start_s} and end_s={end_s}")
    return round(start_s * sampling_rate), None if end_s is None else round(end_s * sampling_rate)


def no_samples(start_s: float = 0.0, source: str | None = None) -> MediaDecodeError:
    """The error about audio that is empty, or is over before a range of it starts."""
    where = f" after {start_s:g} s" if start_s else ""
    return MediaDecodeError(f"the audio has no samples{where}", source=source)


def plan_audio_chunks(
    info: AudioInfo, max_duration_s: float | None, policy: LongAudio, *, min_duration_s: float = SHORTEST_CHUNK_S
) -> list[tuple[float, float]]:
    """Decides in which pieces audio is used, so that none is longer than `max_duration_s`.

    The pieces start and end on samples of the audio, follow one another without a gap, and, except under
    `"truncate"`, cover all of it.

    Args:
        info: What `probe_audio` gave.
        max_duration_s: Longest piece, in seconds; `None` for no bound.
        policy: What becomes of longer audio. `"error"`: nothing. `"truncate"`: its first `max_duration_s` are used.
            `"chunk"`: pieces of `max_duration_s`, the last one as short as it comes out.
        min_duration_s: Where the last piece would be shorter than this, the last two share what they have, half each.

    Returns:
        `(start_s, end_s)` of each piece, as `decode_audio` and `planned_num_samples` take them.

    Raises:
        MediaLimitError: The audio is longer than `max_duration_s` and the policy is `"error"`.
        ValueError: `max_duration_s` is less than one sample.
    """
    rate, num_samples = info.sampling_rate, info.num_samples
    most = num_samples if max_duration_s is None else math.floor(max_duration_s * rate * (1 + 1e-12))
    if most < 1 and num_samples > 0:
        raise ValueError(f"max_duration_s must be at least one sample, got {max_duration_s} at {rate} Hz")
    if num_samples <= most:
        return [(0.0, info.duration_s)]
    if policy == "error":
        raise MediaLimitError(
            f"the audio is {info.duration_s:.2f} s long, and at most {max_duration_s:g} s are taken; set "
            "MediaOptions(long_audio='chunk') to use it in pieces, or 'truncate' to use its beginning"
        )
    if policy == "truncate":
        return [(0.0, most / rate)]
    bounds = [*range(0, num_samples, most), num_samples]
    if bounds[-1] - bounds[-2] < min(min_duration_s * rate, most / 2):
        bounds[-2] = (bounds[-3] + bounds[-1]) // 2
    return [(start / rate, end / rate) for start, end in itertools.pairwise(bounds)]


def fit_num_samples(
    samples: Waveform, num_samples: int, sampling_rate: int, *, tolerance_s: float = LENGTH_TOLERANCE_S
) -> Waveform:
    """Makes decoded audio as long as it was planned.

    The two agree unless the file, or what decodes it, has changed since.

    Args:
        samples: `(any,)`, as `decode_audio` gave them.
        num_samples: How many were planned.
        sampling_rate: Of the samples.
        tolerance_s: How many seconds may be missing, and are filled with zeros, or be too many, and are cut.

    Returns:
        `(num_samples,)`; `samples` itself where it fits.

    Raises:
        MediaDecodeError: The difference exceeds the tolerance.
    """
    difference = num_samples - len(samples)
    if difference == 0:
        return samples
    if abs(difference) > tolerance_s * sampling_rate:
        raise MediaDecodeError(
            f"{num_samples:,} samples at {sampling_rate} Hz were planned, and {len(samples):,} decoded: more than "
            f"{tolerance_s:g} s of difference. The file has changed since it was mapped, or is decoded by another "
            "backend or version; map the dataset again"
        )
    return np.pad(samples, (0, difference)) if difference > 0 else samples[:num_samples]
