"""A file of every kind that audio comes in, good and bad."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

from mmdatasets.testing.audio import (
    add_cover_art,
    clear_flac_length,
    encode_audio,
    encode_video_with_audio,
    make_audio,
)

Decoder = Literal["soundfile", "pyav"]


@dataclass(frozen=True, slots=True)
class AudioCase:
    """One file.

    Attributes:
        name: What is special about it.
        build: Makes the file's bytes; see `mmdatasets.testing.audio.encode_audio`.
        sampling_rate: Samples per second of each channel.
        num_channels: Channels.
        decoder: What decodes all of it and nothing else, libsndfile being preferred.
        problem: A regular expression for the message of the error that the file must give; `None` for a good file.
    """

    name: str
    build: Callable[[], bytes]
    sampling_rate: int = 0
    num_channels: int = 0
    decoder: Decoder = "soundfile"
    problem: str | None = None


def audio_corpus() -> dict[str, AudioCase]:
    """The files by name. None is made before its `build` is called."""
    cases = [*_lossless(), *_lossy(), *_mp3(), *_sound_tracks(), *_short(), *_cut_off(), *_no_audio()]
    return {case.name: case for case in cases}


def _encoded(
    format: str, sampling_rate: int, num_channels: int, decoder: Decoder = "soundfile", duration_s: float = 1.5
) -> AudioCase:
    def build() -> bytes:
        samples = make_audio(sampling_rate, int(duration_s * sampling_rate) + 77, num_channels)
        return encode_audio(samples, sampling_rate, format)

    return AudioCase(f"{format} {sampling_rate} Hz {num_channels} ch", build, sampling_rate, num_channels, decoder)


def _mp3_of(rate: str, *, xing: bool) -> AudioCase:
    def build() -> bytes:
        return encode_audio(make_audio(44100, 3 * 44100, 2), 44100, "mp3", vbr=rate == "variable", xing=xing)

    name = f"mp3 of {rate} rate{'' if xing else ' without Xing header'}"
    return AudioCase(name, build, 44100, 2, "soundfile" if xing else "pyav")


def _changed(
    what: str,
    case: AudioCase,
    change: Callable[[bytes], bytes],
    decoder: Decoder | None = None,
    problem: str | None = None,
) -> AudioCase:
    name, decoder = f"{case.name}, {what}", decoder or case.decoder
    return AudioCase(name, lambda: change(case.build()), case.sampling_rate, case.num_channels, decoder, problem)


def _lossless() -> list[AudioCase]:
    stereo, flac = _encoded("wav", 44100, 2), _encoded("flac", 44100, 2)
    return [
        stereo,
        _changed("size unknown", stereo, _stream_wav),
        _encoded("wav", 16000, 1),
        _encoded("wav", 48000, 6),
        _encoded("wav_u8", 8000, 1),
        _encoded("wav_int24", 48000, 2),
        _encoded("wav_float", 22050, 1),
        _encoded("wav_double", 32000, 2),
        _encoded("aiff", 11025, 2),
        flac,
        _changed("length unknown", flac, clear_flac_length, "pyav"),
        _encoded("flac", 96000, 1),
        _encoded("flac", 48000, 6),
        _encoded("alac", 44100, 2, "pyav"),
        _encoded("mkv_pcm", 16000, 1, "pyav"),
    ]


def _lossy() -> list[AudioCase]:
    return [
        _encoded("ogg", 44100, 2),
        _encoded("ogg", 16000, 1),
        _encoded("ogg", 48000, 6),
        _encoded("opus", 48000, 2),
        _encoded("opus", 16000, 1),
        *(
            _encoded("m4a", rate, channels, "pyav")
            for rate, channels in ((44100, 2), (8000, 1), (48000, 6), (96000, 1))
        ),
        _encoded("adts", 44100, 2, "pyav"),
        _encoded("adts", 16000, 1, "pyav"),
        _encoded("ac3", 48000, 6, "pyav"),
        _encoded("mka", 44100, 2, "pyav"),
        _encoded("weba", 48000, 2, "pyav"),
        _encoded("weba", 48000, 6, "pyav"),
    ]


def _mp3() -> list[AudioCase]:
    variable, headless = _mp3_of("variable", xing=True), _mp3_of("variable", xing=False)
    return [
        _mp3_of("constant", xing=True),
        _mp3_of("constant", xing=False),
        variable,
        headless,
        *(_changed("cover art", case, lambda data: add_cover_art(data, _picture())) for case in (variable, headless)),
        _encoded("mp3", 8000, 1),
        _encoded("mp3", 22050, 2),
        *(_joined_mp3(kind, xing=xing) for kind in ("constant", "variable") for xing in (True, False)),
    ]


def _joined_mp3(rate: str, *, xing: bool) -> AudioCase:
    """Two files in one: a header states the length of the first."""
    case = _mp3_of(rate, xing=True)

    def joined(first: bytes) -> bytes:
        second = make_audio(44100, 2 * 44100, 2, seed=1)
        return first + encode_audio(second, 44100, "mp3", vbr=rate == "variable", xing=xing, id3=False)

    return _changed(f"joined to one with{'' if xing else 'out'} Xing header", case, joined, "pyav")


def _sound_tracks() -> list[AudioCase]:
    return [
        AudioCase(
            f"sound of {format}, {delay} s late",
            partial(_sound_track, format, num_channels, delay),
            48000,
            num_channels,
            "pyav",
        )
        for format, num_channels in (("mp4", 2), ("matroska", 6), ("webm", 1))
        for delay in (0.0, 0.5)
    ]


def _sound_track(format: str, num_channels: int, delay_s: float, num_samples: int = 48000) -> bytes:
    samples = make_audio(48000, num_samples, num_channels)
    return encode_video_with_audio(samples, 48000, format, audio_delay_s=delay_s)


def _short() -> list[AudioCase]:
    decoders: dict[str, Decoder] = {"wav": "soundfile", "flac": "soundfile", "m4a": "pyav"}
    one = [
        AudioCase(f"{format} of one sample", partial(_of_length, format, 1), 16000, 1, decoder)
        for format, decoder in decoders.items()
    ]
    none = [
        AudioCase(f"{format} of no sample", partial(_of_length, format, 0), problem="no samples")
        for format in ("wav", "wav_float", "ogg")
    ]
    silent = AudioCase("sound track of no sample", partial(_sound_track, "matroska", 2, 0.0, 0), problem="no samples")
    return [*one, *none, silent]


def _of_length(format: str, num_samples: int) -> bytes:
    return encode_audio(make_audio(16000, num_samples), 16000, format)


def _cut_off() -> list[AudioCase]:
    detected = [
        _encoded("wav", 44100, 2),
        _encoded("flac", 44100, 2),
        _encoded("m4a", 44100, 2, "pyav"),
        _encoded("adts", 44100, 2, "pyav"),
        _mp3_of("variable", xing=True),
        _encoded("ogg", 48000, 2, duration_s=3),
        _encoded("opus", 48000, 2, duration_s=3),
        _encoded("mka", 48000, 2, "pyav"),
    ]
    return [
        *(_changed("cut off", case, _half, problem="cut off or damaged") for case in detected),
        _changed("cut off", _mp3_of("variable", xing=False), _half),
    ]


def _no_audio() -> list[AudioCase]:
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/sound.ts\n#EXT-X-ENDLIST\n"
    return [
        AudioCase("wav with NaN", _not_finite, problem="3 of 16,000 are NaN"),
        AudioCase("mp3 of two rates", _of_two_rates, problem="changes from 1 channels at 16000 Hz to 1 at 24000 Hz"),
        AudioCase("video without sound", partial(encode_video_with_audio, None, 16000), problem="no audio track"),
        AudioCase("cover art alone", lambda: add_cover_art(b"", _picture()), problem="not a readable audio"),
        AudioCase("empty file", lambda: b"", problem="the file is empty"),
        AudioCase("text", lambda: b"not a sound\n" * 100, problem="not a readable audio"),
        AudioCase("picture", _picture, problem="not a readable audio"),
        AudioCase("playlist", lambda: playlist, problem="not a readable audio"),
        AudioCase("ffconcat", lambda: b"ffconcat version 1.0\nfile /etc/hostname\n", problem="not a readable audio"),
    ]


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2 + 1]


def _stream_wav(wav: bytes) -> bytes:
    """The sizes as programs write them that cannot go back and fill them in."""
    at = wav.index(b"data") + 4
    return wav[:4] + b"\xff" * 4 + wav[8:at] + b"\xff" * 4 + wav[at + 4 :]


def _not_finite() -> bytes:
    samples = make_audio(16000, 16000)
    samples[0, 5000:5003] = np.nan, np.inf, -np.inf
    return encode_audio(samples, 16000, "wav_float")


def _of_two_rates() -> bytes:
    return b"".join(encode_audio(make_audio(rate, rate), rate, "mp3") for rate in (16000, 24000))


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 60), (20, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()
