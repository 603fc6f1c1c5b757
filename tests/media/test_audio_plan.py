from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmdatasets.errors import MediaDecodeError, MediaLimitError
from mmdatasets.media.audio import decode_audio
from mmdatasets.media.audio_plan import fit_num_samples, plan_audio_chunks, planned_num_samples, sample_range
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import make_audio
from mmdatasets.types import AudioInfo

POLICIES = ["error", "truncate", "chunk"]
rates = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]) | st.integers(1000, 200_000)


@pytest.mark.parametrize("policy", POLICIES)
def test_audio_that_is_short_enough_is_one_piece(policy):
    info = AudioInfo(44100, 2, 30 * 44100)
    assert plan_audio_chunks(info, 30.0, policy) == [(0.0, 30.0)]
    assert plan_audio_chunks(info, None, policy) == [(0.0, 30.0)]


def test_longer_audio_is_refused_cut_or_divided():
    info = AudioInfo(16000, 1, 70 * 16000)
    with pytest.raises(MediaLimitError, match=r"70\.00 s long, and at most 30 s .*long_audio='chunk'"):
        plan_audio_chunks(info, 30, "error")
    assert plan_audio_chunks(info, 30, "truncate") == [(0.0, 30.0)]
    assert plan_audio_chunks(info, 30, "chunk") == [(0.0, 30.0), (30.0, 60.0), (60.0, 70.0)]


def test_a_last_piece_too_short_to_hear_anything_in_is_shared():
    info = AudioInfo(16000, 1, 60 * 16000 + 2)
    assert plan_audio_chunks(info, 30, "chunk") == [
        (0.0, 30.0),
        (30.0, 720001 / 16000),
        (720001 / 16000, 960002 / 16000),
    ]
    assert plan_audio_chunks(info, 30, "chunk", min_duration_s=0)[-1] == (60.0, 960002 / 16000)


@given(
    rate=rates,
    num_samples=st.integers(1, 10**7),
    max_duration_s=st.floats(0.01, 100),
    shortest=st.floats(0, 2),
    new_rate=st.sampled_from([16000, 24000]),
)
def test_pieces_cover_everything_and_none_is_too_long(rate, num_samples, max_duration_s, shortest, new_rate):
    assume(num_samples / rate / max_duration_s < 2000)
    info, options = AudioInfo(rate, 1, num_samples), MediaOptions()
    chunks = plan_audio_chunks(info, max_duration_s, "chunk", min_duration_s=shortest)
    bounds = [sample_range(info, *chunk) for chunk in chunks]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == num_samples
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(bounds))
    longest = math.ceil(max_duration_s * (1 + 1e-9) * new_rate)
    lengths = [planned_num_samples(info, options, new_rate, start_s=start, end_s=end) for start, end in chunks]
    assert all(0 < length <= longest for length in lengths)
    [(start, end)] = plan_audio_chunks(info, max_duration_s, "truncate")
    assert start == 0
    assert end == pytest.approx(min(max_duration_s, info.duration_s), abs=1 / rate)
    assert planned_num_samples(info, options, new_rate, end_s=end) <= longest


def test_pieces_decode_to_what_was_planned():
    samples = make_audio(44100, 100_000, 2)
    reference = {"array": samples, "sampling_rate": 44100}
    info, options = AudioInfo(44100, 2, 100_000), MediaOptions()
    chunks = plan_audio_chunks(info, 0.7, "chunk")
    assert len(chunks) == 4
    native = [decode_audio(reference, options, 44100, start_s=start, end_s=end) for start, end in chunks]
    assert np.array_equal(np.concatenate(native), decode_audio(reference, options, 44100))
    for start, end in chunks:
        decoded = decode_audio(reference, options, 16000, start_s=start, end_s=end)
        assert len(decoded) == planned_num_samples(info, options, 16000, start_s=start, end_s=end)


@pytest.mark.parametrize(("start", "end"), [(-1.0, None), (1.0, 1.0), (2.0, 1.0), (math.nan, None), (0.0, math.inf)])
def test_ranges_that_are_none_are_refused(start, end):
    with pytest.raises(ValueError, match="0 <= start_s < end_s"):
        planned_num_samples(AudioInfo(16000, 1, 16000), MediaOptions(), 16000, start_s=start, end_s=end)
    with pytest.raises(ValueError, match="0 <= start_s < end_s"):
        decode_audio({"array": np.zeros(9), "sampling_rate": 16000}, MediaOptions(), 16000, start_s=start, end_s=end)


def test_a_range_behind_the_end_is_an_error_and_one_across_it_is_cut():
    info = AudioInfo(16000, 1, 16000)
    assert planned_num_samples(info, MediaOptions(), 8000, start_s=0.5, end_s=9) == 4000
    with pytest.raises(MediaDecodeError, match=r"from 1 s to its end: the audio is 1 s long"):
        planned_num_samples(info, MediaOptions(), 8000, start_s=1)


def test_a_rate_that_is_not_resampled_is_not_planned():
    with pytest.raises(MediaLimitError, match="1 Hz is not changed to 16000 Hz"):
        planned_num_samples(AudioInfo(1, 1, 4000), MediaOptions(), 16000)


def test_less_than_one_sample_is_no_bound():
    with pytest.raises(ValueError, match="at least one sample"):
        plan_audio_chunks(AudioInfo(8000, 1, 8000), 0.0001, "chunk")


def test_decoded_audio_is_made_to_fit_its_plan():
    samples = np.ones(16000, dtype=np.float32)
    assert fit_num_samples(samples, 16000, 16000) is samples
    assert np.array_equal(fit_num_samples(samples, 15990, 16000), np.ones(15990))
    assert np.array_equal(fit_num_samples(samples, 16001, 16000), [*np.ones(16000), 0])
    for planned in (14399, 17601):
        with pytest.raises(MediaDecodeError, match=rf"{planned:,} samples .* and 16,000 decoded: .* 0\.1 s"):
            fit_num_samples(samples, planned, 16000)
    assert len(fit_num_samples(samples, 14399, 16000, tolerance_s=0.2)) == 14399
