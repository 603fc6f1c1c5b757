"""Reference decoding, written apart from the package: soundfile or PyAV, the mean of the channels, soxr."""

from __future__ import annotations

import functools
import io
import math

import av
import numpy as np
import soundfile
import soxr

from mmdatasets.testing.audio_corpus import audio_corpus

CORPUS = audio_corpus()
GOOD = [name for name, case in CORPUS.items() if case.problem is None]
BAD = [name for name, case in CORPUS.items() if case.problem is not None]


@functools.cache
def file_of(name):
    return CORPUS[name].build()


@functools.cache
def channels_of(name, decoder=None):
    """Everything that the file holds: `(num_channels, num_samples)` and the sampling rate."""
    decode = {"soundfile": soundfile_channels, "pyav": pyav_channels}[decoder or CORPUS[name].decoder]
    return decode(file_of(name))


def soundfile_channels(data):
    # `soundfile.read` would seek to the start first, after which some MP3s differ in the last bit.
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        return sound.read(dtype="float32", always_2d=True).T, sound.samplerate


def pyav_channels(data):
    """FFmpeg converts the samples to planar floats: not by our arithmetic."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("audio")
        frames = list(container.decode(stream))
        converter = av.AudioResampler(format="fltp", layout=frames[0].layout, rate=frames[0].sample_rate)
        pieces = [piece.to_ndarray() for frame in [*frames, None] for piece in converter.resample(frame)]
        return np.concatenate(pieces, axis=1), frames[0].sample_rate


def reference(channels, rate, new_rate):
    """What `librosa.load` and `transformers.audio_utils.load_audio` do with the decoded channels."""
    mono = channels.mean(axis=0) if len(channels) > 1 else channels[0]
    if rate == new_rate:
        return mono
    resampled = soxr.resample(mono, rate, new_rate, quality="soxr_hq")
    length = math.ceil(len(mono) * new_rate / rate)
    return np.pad(resampled, (0, max(0, length - len(resampled))))[:length]
