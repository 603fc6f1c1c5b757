"""The synthetic audio is what its descriptions say."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile

from mmdatasets.testing.audio import (
    AUDIO_FORMATS,
    add_cover_art,
    clear_flac_length,
    encode_audio,
    encode_video_with_audio,
    make_audio,
    write_audio,
)
from mmdatasets.testing.audio_corpus import audio_corpus

CODECS = {
    "aiff": "pcm_s16be",
    "ogg": "vorbis",
    "mp3": "mp3float",
    "m4a": "aac",
    "adts": "aac",
    "mka": "aac",
    "mkv_pcm": "pcm_s16le",
    "weba": "opus",
    "wav": "pcm_s16le",
    "wav_u8": "pcm_u8",
    "wav_int24": "pcm_s24le",
    "wav_float": "pcm_f32le",
    "wav_double": "pcm_f64le",
}


def test_the_same_arguments_give_the_same_samples():
    samples = make_audio(16000, 5000, 2, seed=3)
    assert samples.shape == (2, 5000)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() < 1
    assert np.array_equal(samples, make_audio(16000, 5000, 2, seed=3))
    assert not np.array_equal(samples, make_audio(16000, 5000, 2, seed=4))
    assert not np.array_equal(samples[0], samples[1])


@pytest.mark.parametrize("format", AUDIO_FORMATS)
def test_every_format_holds_the_sound(format):
    samples = make_audio(48000, 24000, 2)
    data = encode_audio(samples, 48000, format)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name == CODECS.get(format, format)
        decoded = np.concatenate([frame.samples * [0] for frame in container.decode(stream)])
    assert 24000 <= len(decoded) < 24000 + 3000
    if format not in ("ogg", "opus"):  # whose streams have random serial numbers
        assert data == encode_audio(samples, 48000, format)


def test_unknown_formats_are_named():
    with pytest.raises(ValueError, match=r"unknown format 'mid': expected one of wav, .*mp3"):
        encode_audio(make_audio(16000, 100), 16000, "mid")


@pytest.mark.parametrize("vbr", [False, True])
def test_rate_and_header_of_an_mp3(vbr):
    samples = make_audio(44100, 3 * 44100, 2)
    with_header, without = (encode_audio(samples, 44100, "mp3", vbr=vbr, xing=xing) for xing in (True, False))
    assert (b"Xing" if vbr else b"Info") in with_header[:300]
    assert not {b"Xing", b"Info"} & {without[at : at + 4] for at in range(len(without))}
    with av.open(io.BytesIO(without)) as container:
        sizes = {packet.size for packet in container.demux(audio=0) if packet.size}
    assert (len(sizes) > 2) == vbr  # a constant rate has frames of two sizes, for the rounding


def test_cover_art_is_seen_as_a_picture():
    picture = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (50, 40)).save(picture, "PNG")
    data = add_cover_art(encode_audio(make_audio(44100, 44100), 44100, "mp3"), picture.getvalue())
    with av.open(io.BytesIO(data)) as container:
        [video] = container.streams.video
        assert (video.codec_context.name, video.width, video.height) == ("png", 50, 40)
        assert len(container.streams.audio) == 1


def test_a_flac_without_length_says_none():
    flac = encode_audio(make_audio(44100, 44100), 44100, "flac")
    with soundfile.SoundFile(io.BytesIO(clear_flac_length(flac))) as sound:
        assert sound.frames > 2**60
        assert (sound.samplerate, sound.channels) == (44100, 1)


@pytest.mark.parametrize("format", ["mp4", "matroska", "webm"])
def test_videos_have_sound_or_none(format):
    for samples, num_tracks in ((make_audio(48000, 24000, 2), 1), (None, 0)):
        with av.open(io.BytesIO(encode_video_with_audio(samples, 48000, format, num_frames=7))) as container:
            assert len(container.streams.audio) == num_tracks
            assert len(list(container.decode(video=0))) == 7


def test_files_are_written_by_their_suffix(tmp_path):
    path = write_audio(tmp_path / "new" / "sound.FLAC", 22050, 0.5, 2)
    assert soundfile.info(path).format == "FLAC"
    assert soundfile.info(path).frames == 11025
    assert write_audio(tmp_path / "sound.bin", format="wav").read_bytes()[:4] == b"RIFF"


def test_names_of_the_corpus_are_those_of_its_files():
    corpus = audio_corpus()
    assert len(corpus) > 60
    assert all(name == case.name for name, case in corpus.items())
    assert all(
        (case.problem is None) == (case.sampling_rate > 0) or "cut off" in name for name, case in corpus.items()
    )
