"""Dry runs of audio without the spectrogram, which takes most of their time and decides on no token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from transformers import Gemma3nAudioFeatureExtractor, Gemma4AudioFeatureExtractor, WhisperFeatureExtractor

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


class _Shapes:
    """Stands in for the method that computes Whisper's log-mel spectrogram: gives one of the same shape."""

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        self._num_bins: int = extractor.feature_size
        self._hop_length: int = extractor.hop_length
        self._window: int = extractor.n_fft
        self._real: Callable[..., npt.NDArray[np.float32]] = extractor._torch_extract_fbank_features

    def __call__(
        self, waveform: npt.NDArray[np.float32], device: str | torch.device = "cpu"
    ) -> npt.NDArray[np.float32]:
        """Gives zeros `(num_items, num_bins, num_frames)` for `(num_items, num_samples)`."""
        num_items, num_samples = waveform.shape
        if num_samples < self._window:  # torch.stft refuses what is too short for its padding
            return self._real(waveform, device)
        return np.zeros((num_items, self._num_bins, num_samples // self._hop_length), np.float32)


def without_spectrograms(processor: ProcessorMixin | PreTrainedTokenizerBase) -> ProcessorMixin:
    """A processor that makes of audio what the given one makes of it, but for the values of its features.

    Padding, masks and what depends on them are the processor's own. Processors whose spectrogram is neither Whisper's
    nor Gemma's are returned as they are.
    """
    extractor = getattr(processor, "feature_extractor", None)
    own = getattr(type(extractor), "_torch_extract_fbank_features", None)
    if extractor is not None and own is WhisperFeatureExtractor._torch_extract_fbank_features:
        shapes = copy.copy(extractor)
        shapes._torch_extract_fbank_features = _Shapes(extractor)
    elif isinstance(extractor, (Gemma3nAudioFeatureExtractor, Gemma4AudioFeatureExtractor)):
        shapes = _with_smallest_transform(extractor)
    else:
        return processor
    quick = copy.copy(processor)
    quick.feature_extractor = shapes
    return quick


def _with_smallest_transform(
    extractor: Gemma3nAudioFeatureExtractor | Gemma4AudioFeatureExtractor,
) -> Gemma3nAudioFeatureExtractor | Gemma4AudioFeatureExtractor:
    """An extractor whose frames are as many as the given one's, each with a spectrum of one number."""
    quick = copy.copy(extractor)
    quick.fft_length = 1
    quick.mel_filters = np.zeros((1, extractor.feature_size))
    quick.dither = quick.preemphasis = 0.0
    quick.input_scale_factor = 1.0
    return quick


def own_audio_count(
    processor: ProcessorMixin | PreTrainedTokenizerBase, settings: Mapping[str, object], num_samples: int
) -> int | None:
    """How many tokens a processor's own arithmetic gives audio; `None` where it has none.

    Only for processors of which it is known to equal the dry run.

    Args:
        processor: The processor.
        settings: Its keyword arguments for audio.
        num_samples: Samples at the model's rate.
    """
    count = getattr(processor, "_get_num_audio_tokens", None)
    return None if count is None else int(count(num_samples, **settings))
