from __future__ import annotations

import importlib.util
import math

import av
import numpy as np
import pytest
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.errors import MediaLimitError, MissingExtraError
from mmdatasets.media import waveform
from mmdatasets.media.waveform import resample, resampled_length, to_mono

HAS_TORCHAUDIO = importlib.util.find_spec("torchaudio") is not None
needs_torchaudio = pytest.mark.skipif(not HAS_TORCHAUDIO, reason="torchaudio is not installed")
RESAMPLERS = ["soxr", pytest.param("torchaudio", marks=needs_torchaudio)]

COMMON_RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000]
rates = st.sampled_from(COMMON_RATES) | st.integers(1000, 200_000)


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, num_samples).astype(np.float32)


@given(orig=rates, new=rates, num_samples=st.integers(1, 300) | st.integers(1, 60_000))
def test_soxr_gives_the_planned_number_of_samples(orig, new, num_samples):
    samples = noise(num_samples)
    resampled = resample(samples, orig, new, "soxr")
    assert len(resampled) == resampled_length(num_samples, orig, new, "soxr")
    own = soxr.resample(samples, orig, new, quality="soxr_hq")
    shared = min(len(own), len(resampled))
    assert abs(len(own) - len(resampled)) <= 1
    assert np.array_equal(resampled[:shared], own[:shared])
    assert not resampled[shared:].any()


@needs_torchaudio
@given(orig=rates, new=rates, num_samples=st.integers(1, 300) | st.integers(1, 60_000))
def test_torchaudio_gives_the_planned_number_of_samples(orig, new, num_samples):
    import torchaudio

    samples = noise(num_samples)
    if (orig // math.gcd(orig, new)) * (new // math.gcd(orig, new)) > 10_000_000:
        return  # takes seconds; what is refused has a test of its own
    resampled = resample(samples, orig, new, "torchaudio")
    own = torchaudio.functional.resample(torch.from_numpy(samples), orig, new).numpy()
    assert len(own) == resampled_length(num_samples, orig, new, "torchaudio")
    assert np.array_equal(resampled, own)


@needs_torchaudio
@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [3 * 2**24 + 5, 3 * 2**24 + 7, 60_000_001])
@pytest.mark.parametrize(("orig", "new"), [(48000, 16000), (44100, 16000), (16000, 24000)])
def test_the_length_that_torchaudio_rounds_is_planned_as_well(num_samples, orig, new):
    resampled = resample(np.zeros(num_samples, dtype=np.float32), orig, new, "torchaudio")
    assert len(resampled) == resampled_length(num_samples, orig, new, "torchaudio")


@given(orig=rates, new=rates, num_samples=st.integers(0, 2**40))
def test_the_length_is_that_of_transformers(orig, new, num_samples):
    expected = num_samples if orig == new else math.ceil(num_samples * new / orig)
    assert resampled_length(num_samples, orig, new, "soxr") == expected


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_equal_rates_change_nothing(resampler):
    samples = noise(100)
    assert resample(samples, 16000, 16000, resampler) is samples


def alias_level(samples, rate):
    """Decibels of the loudest tone in the middle of a sound, 0 being full scale."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
    window = np.blackman(len(middle))
    return 20 * np.log10(np.abs(np.fft.rfft(middle * window)).max() / (window.sum() / 2))


def resample_with_ffmpeg(samples, orig, new):
    frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
    frame.sample_rate = orig
    resampler = av.AudioResampler("flt", "mono", new)
    return np.concatenate([piece.to_ndarray()[0] for given in (frame, None) for piece in resampler.resample(given)])


@pytest.mark.parametrize("tone", [8050, 8200, 8500, 9000, 12000, 15000])
@pytest.mark.parametrize("orig", [44100, 48000])
def test_nothing_that_the_new_rate_cannot_hold_is_left(orig, tone):
    samples = np.sin(2 * np.pi * tone * np.arange(2 * orig) / orig).astype(np.float32)
    assert alias_level(resample(samples, orig, 16000, "soxr"), 16000) < -130


@needs_torchaudio
def test_the_alternatives_leave_aliases():
    """Why soxr is the default: half a kilohertz above the limit the others let a tone through, as another one."""
    samples = np.sin(2 * np.pi * 8500 * np.arange(2 * 44100) / 44100).astype(np.float32)
    assert alias_level(resample_with_ffmpeg(samples, 44100, 16000), 16000) == pytest.approx(-26, abs=1)
    assert alias_level(resample(samples, 44100, 16000, "torchaudio"), 16000) == pytest.approx(-11, abs=1)


@pytest.mark.parametrize("tone", [100, 1000, 4000])
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_what_it_can_hold_stays_as_loud(tone, resampler):
    samples = np.sin(2 * np.pi * tone * np.arange(2 * 44100) / 44100).astype(np.float32)
    resampled = resample(samples, 44100, 16000, resampler)
    assert alias_level(resampled, 16000) == pytest.approx(0, abs=0.2)
    expected = np.sin(2 * np.pi * tone * np.arange(len(resampled)) / 16000)  # neither shifted nor stretched
    assert np.abs(resampled - expected)[100:-100].max() < (2e-5 if resampler == "soxr" else 0.03)


@given(num_channels=st.integers(1, 10), num_samples=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_mono_is_the_mean(num_channels, num_samples, seed):
    by_sample = noise(num_channels * num_samples, seed).reshape(num_samples, num_channels)
    mono = to_mono(by_sample.T)
    assert mono.dtype == np.float32
    assert mono.flags.c_contiguous
    # Both as transformers computes it for files.
    assert np.array_equal(mono, by_sample.T.mean(axis=0) if num_channels > 1 else by_sample[:, 0])
    by_channel = np.ascontiguousarray(by_sample.T)
    assert np.array_equal(to_mono(by_channel), by_channel.mean(axis=0))
    assert np.array_equal(by_channel, by_sample.T)  # the input is left alone


@needs_torchaudio
def test_ratios_that_torchaudio_would_need_gigabytes_for_are_refused():
    with pytest.raises(MediaLimitError, match=r"2\.\d GiB .* from 44101 Hz to 16000 Hz; use .*'soxr'"):
        resample(noise(100), 44101, 16000, "torchaudio")


def test_torchaudio_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(waveform.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"audio_resampler='torchaudio' .*mmdatasets\[torchaudio\]"):
        resample(noise(100), 44100, 16000, "torchaudio")


@pytest.mark.parametrize(("orig", "new"), [(1, 16000), (62, 16000), (2**31 - 1, 16000), (16000, 62)])
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_rates_that_only_a_broken_header_has_are_refused(orig, new, resampler):
    with pytest.raises(MediaLimitError, match=rf"{orig} Hz is not changed to {new} Hz, more than 256 times"):
        resample(noise(100), orig, new, resampler)
