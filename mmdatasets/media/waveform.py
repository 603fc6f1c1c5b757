"""Mixing audio down and changing its sampling rate, and how many samples that gives."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mmdatasets.errors import MediaLimitError, MissingExtraError

if TYPE_CHECKING:
    import numpy.typing as npt

    from mmdatasets.options import Resampler

    Waveform: TypeAlias = npt.NDArray[np.float32]

# torchaudio makes a filter for every phase of the ratio of the two rates: 4 bytes for each of these.
_LARGEST_KERNEL = 2**26
_LARGEST_RATIO = 256
_PAIRWISE = 8  # from so many numbers on, numpy adds them up in another order
_TORCHAUDIO_WIDTH = 6  # the default `lowpass_filter_width` of `torchaudio.functional.resample`, and its `rolloff`
_TORCHAUDIO_ROLLOFF = 0.99


def to_mono(samples: Waveform) -> Waveform:
    """Averages the channels of `(num_channels, num_samples)`, bit for bit as `samples.mean(axis=0)` does.

    Args:
        samples: In any order of memory. Files give sample after sample, which slows down numpy's own mean.

    Returns:
        Contiguous `(num_samples,)`.
    """
    if len(samples) == 1:
        return np.ascontiguousarray(samples[0])
    if len(samples) >= _PAIRWISE:
        return np.ascontiguousarray(samples.mean(axis=0))
    total: Waveform = samples[0] + samples[1]
    for channel in samples[2:]:
        total += channel
    total /= np.float32(len(samples))
    return total


def resample(samples: Waveform, orig_rate: int, new_rate: int, resampler: Resampler) -> Waveform:
    """Changes the sampling rate of mono audio.

    `"soxr"` is `soxr.resample` in its high quality, padded with zeros or cut to the expected length, as
    `librosa.resample(res_type="soxr_hq")` and `transformers.audio_utils.load_audio` do. `"torchaudio"` is
    `torchaudio.functional.resample` with its defaults, for models that were trained on its output. Of a tone half a
    kilohertz above what 16 kHz can hold, soxr leaves less than -130 dB, torchaudio -11 dB (FFmpeg -26 dB).

    Args:
        samples: `(num_samples,)`.
        orig_rate: Their sampling rate.
        new_rate: The sampling rate wanted.
        resampler: What computes it.

    Returns:
        `(resampled_length(num_samples, orig_rate, new_rate, resampler),)`; `samples` itself where the rates are equal.

    Raises:
        MissingExtraError: `resampler` is `"torchaudio"` and that is not installed.
        MediaLimitError: One rate is more than 256 times the other, which is a header's mistake and would take
            gigabytes; or the two have so small a common divisor that torchaudio would.
    """
    if orig_rate == new_rate:
        return samples
    _check_ratio(orig_rate, new_rate)
    if resampler == "torchaudio":
        return _resample_with_torchaudio(samples, orig_rate, new_rate)
    import soxr

    resampled = soxr.resample(samples, orig_rate, new_rate, quality="soxr_hq")
    length = resampled_length(len(samples), orig_rate, new_rate, resampler)
    return np.pad(resampled, (0, length - len(resampled))) if len(resampled) < length else resampled[:length]


def resampled_length(num_samples: int, orig_rate: int, new_rate: int, resampler: Resampler) -> int:
    """How many samples `resample` gives, from the number alone.

    Both resamplers give `ceil(num_samples * new_rate / orig_rate)`, but torchaudio computes it in single precision,
    which rounds lengths above 2**24 samples (17 minutes at 16 kHz).

    Raises:
        MediaLimitError: One rate is more than 256 times the other.
    """
    if orig_rate == new_rate:
        return num_samples
    _check_ratio(orig_rate, new_rate)
    if resampler == "soxr":
        return -(-num_samples * new_rate // orig_rate)
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    length = math.ceil(np.float32(new * num_samples / orig))
    # Rounding up may ask for more than the convolution gives.
    return min(length, (num_samples // orig + 1) * new)


def _check_ratio(orig_rate: int, new_rate: int) -> None:
    if max(orig_rate, new_rate) > _LARGEST_RATIO * min(orig_rate, new_rate):
        raise MediaLimitError(
            f"a sampling rate of {orig_rate} Hz is not changed to {new_rate} Hz, more than {_LARGEST_RATIO} times "
            "more or less; is it the right one?"
        )


def _resample_with_torchaudio(samples: Waveform, orig_rate: int, new_rate: int) -> Waveform:
    if importlib.util.find_spec("torchaudio") is None:
        raise MissingExtraError.for_package("torchaudio", "torchaudio", "audio_resampler='torchaudio'")
    divisor = math.gcd(orig_rate, new_rate)
    orig, new = orig_rate // divisor, new_rate // divisor
    width = math.ceil(_TORCHAUDIO_WIDTH * orig / (min(orig, new) * _TORCHAUDIO_ROLLOFF))
    if new * (2 * width + orig) > _LARGEST_KERNEL:
        raise MediaLimitError(
            f"torchaudio would need {4 * new * (2 * width + orig) / 2**30:.1f} GiB for its filters from "
            f"{orig_rate} Hz to {new_rate} Hz; use MediaOptions(audio_resampler='soxr')"
        )
    import torch
    import torchaudio

    resampled = torchaudio.functional.resample(torch.from_numpy(samples), orig_rate, new_rate)
    return np.ascontiguousarray(resampled.numpy(), dtype=np.float32)
