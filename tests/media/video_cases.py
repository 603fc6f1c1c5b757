"""Reference decoding, written apart from the package: every frame in sequence with PyAV, turned with NumPy."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import av
import numpy as np

from mmdatasets.options import MediaOptions
from mmdatasets.testing.video_corpus import video_samples

CORPUS = video_samples()
GOOD = [name for name, sample in CORPUS.items() if sample.numbers is not None]
BAD = [name for name, sample in CORPUS.items() if sample.numbers is None]
OPTIONS = MediaOptions()

# Where PyAV's own times are wrong or missing. AVI and a bare H.264 stream store none: 25 frames a second in the one,
# nothing in the other. The joined transport stream starts anew at frame 40, where a player goes on.
TIMES_S = {"h264_avi": np.arange(40) / 25, "h264_raw": None, "h264_ts_joined": np.arange(80) / 25}


@dataclass(frozen=True)
class Decoded:
    """A whole video: `pixels` is `(num_frames, height, width, 3)`, `times_s` starts at 0."""

    pixels: np.ndarray
    times_s: np.ndarray | None
    has_audio: bool


@functools.cache
def file_of(name):
    return CORPUS[name].make()


@functools.cache
def decoded(name):
    whole = decode_in_sequence(file_of(name))
    return Decoded(whole.pixels, TIMES_S.get(name, whole.times_s), whole.has_audio)


def decode_in_sequence(data):
    """What PyAV gives of all frames of the best video track. The corpus' turns are stated by FFmpeg per frame."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        frames = list(container.decode(stream))
        pixels = np.stack([np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)) for frame in frames])
        ticks = [frame.pts for frame in frames]
        times_s = None
        if None not in ticks:
            times_s = np.array([float((tick - ticks[0]) * stream.time_base) for tick in ticks])
        return Decoded(pixels, times_s, bool(container.streams.audio))


def channels_last(frames):
    """`(num_frames, 3, height, width)` tensor -> `(num_frames, height, width, 3)` array."""
    return frames.permute(0, 2, 3, 1).numpy()
