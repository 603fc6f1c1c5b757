"""Entries of a metadata cache, all different, by number."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from mmdatasets.media.cache import MetadataCache
from mmdatasets.types import VideoInfo


def key_of(number: int) -> bytes:
    return random.Random(number).randbytes(16)


def info_of(number: int) -> VideoInfo:
    times = np.random.default_rng(number).random(1 + number % 50)
    return VideoInfo(1 + number, 7, len(times), times, fps=number / 3, starts_at_s=-float(times[0]))


def fill(directory: Path, numbers: range, *, each: int = 5, **settings: int) -> MetadataCache:
    cache = MetadataCache(directory, **settings)
    for start in range(numbers.start, numbers.stop, each):
        for number in range(start, min(start + each, numbers.stop)):
            cache.put(key_of(number), info_of(number), f"video {number}")
        cache.flush()
    return cache
