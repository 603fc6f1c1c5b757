"""What MiniCPM-o 2.6's published processor makes of audio; see `minicpmv`.

Facts, from copies of the published code: features are those of whisper's feature extractor, in windows of 30 seconds
at most, cut to their own frames and padded to the longest; two convolutions and a pooling leave a feature for each
four frames; the text has a span of these between audio tokens, in chunks one for each second; audio of a row with the
same part number is one for the feature extractor, though not in the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

_POOL = 2
_WINDOW_S = 30
_FRAMES_PER_S = 100


def count_features(num_frames: int) -> int:
    """Features that the model makes of so many frames."""
    return (math.ceil(num_frames / 2) - _POOL) // _POOL + 1


def chunk_lengths(num_frames: int, chunk_s: float) -> list[int]:
    """Features in each chunk of audio."""
    total, whole = count_features(num_frames), count_features(int(chunk_s * _FRAMES_PER_S))
    return [min(whole, total - start) for start in range(0, total, whole)]


def extract_features(
    extractor: WhisperFeatureExtractor,
    rows: Sequence[Sequence[np.ndarray]],
    parts: Sequence[Sequence[int]] | None,
    sampling_rate: int,
) -> tuple[torch.Tensor | list[torch.Tensor], list[torch.Tensor | list[int]]]:
    """`(num_windows, num_mel_bins, most_frames)` features, and for each row the frames of its windows."""
    features: list[torch.Tensor] = []
    lengths: list[torch.Tensor | list[int]] = []
    window = _WINDOW_S * sampling_rate
    for index, row in enumerate(rows):
        if not row:
            lengths.append([])
            continue
        numbers = range(len(row)) if parts is None else parts[index]
        numbered = groupby(zip(numbers, row, strict=True), key=lambda pair: pair[0])
        merged = [np.concatenate([audio for _, audio in group]) for _, group in numbered]
        windows = [audio[start : start + window] for audio in merged for start in range(0, len(audio), window)]
        made = extractor(
            windows,
            sampling_rate=sampling_rate,
            return_attention_mask=True,
            padding="max_length",
            return_tensors="pt",
        )
        own = made["attention_mask"].sum(dim=1)
        features += [one[:, :length].T for one, length in zip(made["input_features"], own.tolist(), strict=True)]
        lengths.append(own)
    if not features:
        return [], lengths
    return pad_sequence(features, batch_first=True).permute(0, 2, 1), lengths
