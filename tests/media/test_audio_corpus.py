"""Every file of the corpus: the probe finds what decoding gives, and that is what the decoders themselves give."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile
from transformers.audio_utils import load_audio

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.audio_plan import planned_num_samples
from mmdatasets.options import MediaOptions
from mmdatasets.testing.audio import encode_audio, make_audio
from tests.media.audio_cases import BAD, CORPUS, GOOD, channels_of, file_of, pyav_channels, reference

PYAV = MediaOptions(audio_backend="pyav")


@pytest.mark.parametrize("name", GOOD)
def test_the_probe_finds_what_a_full_decode_gives(name):
    case = CORPUS[name]
    info = probe_audio(file_of(name), MediaOptions())
    channels, rate = channels_of(name)
    assert (info.sampling_rate, info.num_channels, info.num_samples) == (rate, *channels.shape)
    assert (rate, len(channels)) == (case.sampling_rate, case.num_channels)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("rate", [16000, 24000])
def test_decoding_gives_the_reference_samples(name, rate):
    samples = decode_audio(file_of(name), MediaOptions(), rate)
    assert samples.dtype == np.float32
    assert samples.flags.c_contiguous
    assert np.array_equal(samples, reference(*channels_of(name), rate))
    assert len(samples) == planned_num_samples(probe_audio(file_of(name), MediaOptions()), MediaOptions(), rate)


@pytest.mark.parametrize("name", GOOD)
def test_the_pyav_backend_finds_and_gives_the_reference_samples(name):
    info = probe_audio(file_of(name), PYAV)
    channels, rate = channels_of(name, "pyav")
    assert (info.sampling_rate, info.num_channels, info.num_samples) == (rate, *channels.shape)
    assert np.array_equal(decode_audio(file_of(name), PYAV, 16000), reference(channels, rate, 16000))


@pytest.mark.parametrize("name", [name for name in GOOD if CORPUS[name].decoder == "soundfile"])
def test_files_of_soundfile_decode_as_transformers_decodes_them(name, tmp_path):
    path = tmp_path / "sound"
    path.write_bytes(file_of(name))
    assert np.array_equal(decode_audio(path, MediaOptions(), 16000), load_audio(str(path), 16000, backend="soundfile"))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("options", [MediaOptions(), PYAV], ids=lambda options: options.audio_backend)
def test_the_error_says_what_is_wrong(name, options):
    data, problem = file_of(name), CORPUS[name].problem
    with pytest.raises(MediaDecodeError, match=problem) as raised:
        decode_audio(data, options, 16000)
    assert raised.value.source == f"bytes ({len(data):,} B)"
    if "NaN" in problem:  # which no header tells
        assert probe_audio(data, options).num_samples == 16000
        return
    with pytest.raises(MediaDecodeError, match=problem):
        probe_audio(data, options)


def test_soundfile_alone_would_lose_most_of_an_mp3_without_header():
    """The corpus holds what the choice of the decoder is for."""
    data = file_of("mp3 of variable rate without Xing header")
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        stated = sound.frames
    part = len(soundfile.read(io.BytesIO(data))[0])
    assert part == stated < 0.3 * probe_audio(data, MediaOptions()).num_samples


@pytest.mark.parametrize("xing", [True, False])
@pytest.mark.parametrize("backend", ["soundfile", "pyav"])
def test_tags_between_joined_mp3_files_change_nothing(backend, xing):
    """FFmpeg's own decoder refuses the frame that follows such a tag."""
    options = MediaOptions(audio_backend=backend)
    first = encode_audio(make_audio(44100, 44100), 44100, "mp3", xing=xing)
    tagged, plain = (
        encode_audio(make_audio(44100, 44100, seed=1), 44100, "mp3", xing=xing, id3=id3) for id3 in (True, False)
    )
    assert tagged[:3] == b"ID3"
    channels, rate = pyav_channels(first + plain + plain)
    assert np.array_equal(decode_audio(first + tagged + tagged, options, 16000), reference(channels, rate, 16000))
    assert probe_audio(first + tagged + tagged, options).num_samples == channels.shape[1]


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(200), bytes(5000)])
def test_what_is_no_sound_behind_an_mp3_changes_nothing(tail):
    data = file_of("mp3 of variable rate")
    assert probe_audio(data + tail, MediaOptions()) == probe_audio(data, MediaOptions())
    ours = decode_audio(data + tail, MediaOptions(), 44100)
    assert np.array_equal(ours, reference(*channels_of("mp3 of variable rate"), 44100))


@pytest.mark.parametrize("name", ["m4a 44100 Hz 2 ch", "m4a 8000 Hz 1 ch"])
def test_the_header_of_an_m4a_is_wrong(name):
    """The corpus holds what counting is for."""
    with av.open(io.BytesIO(file_of(name))) as container:
        stated = container.streams.audio[0].duration
    assert 160 <= probe_audio(file_of(name), MediaOptions()).num_samples - stated <= 512


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.3), (0.25, 0.75), (0.4, None), (0.9, 1.3)])
def test_a_range_is_a_cut_of_the_whole(name, start_s, end_s):
    channels, rate = channels_of(name)
    info = probe_audio(file_of(name), MediaOptions())
    if start_s >= info.duration_s:
        with pytest.raises(MediaDecodeError, match=rf"no samples after {start_s} s"):
            decode_audio(file_of(name), MediaOptions(), 16000, start_s=start_s, end_s=end_s)
        return
    cut = channels[:, round(start_s * rate) : None if end_s is None else round(end_s * rate)]
    samples = decode_audio(file_of(name), MediaOptions(), 16000, start_s=start_s, end_s=end_s)
    assert len(samples) == planned_num_samples(info, MediaOptions(), 16000, start_s=start_s, end_s=end_s)
    assert np.array_equal(samples, reference(cut, rate, 16000))
