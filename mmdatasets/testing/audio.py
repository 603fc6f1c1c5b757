"""Synthetic audio: the same arguments give the same samples, and files in every format that the package reads."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

_SOUNDFILE_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav_u8": ("WAV", "PCM_U8"),
    "wav_int24": ("WAV", "PCM_24"),
    "wav_float": ("WAV", "FLOAT"),
    "wav_double": ("WAV", "DOUBLE"),
    "aiff": ("AIFF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
# Name -> FFmpeg's container and encoder.
_FFMPEG_FORMATS = {
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("ipod", "aac"),
    "alac": ("ipod", "alac"),
    "adts": ("adts", "aac"),
    "ac3": ("ac3", "ac3"),
    "mka": ("matroska", "aac"),
    "mkv_pcm": ("matroska", "pcm_s16le"),
    "weba": ("webm", "libopus"),
}
_SUFFIXES = {
    "adts": ".aac",
    "alac": ".m4a",
    "mkv_pcm": ".mka",
    "wav_u8": ".wav",
    "wav_int24": ".wav",
    "wav_float": ".wav",
    "wav_double": ".wav",
}
AUDIO_FORMATS = (*_SOUNDFILE_FORMATS, *_FFMPEG_FORMATS)
"""What `encode_audio` writes."""

_VIDEO_CODECS = {"mp4": ("mpeg4", "aac"), "matroska": ("mpeg4", "aac"), "webm": ("libvpx", "libopus")}
_REPEATABLE = {"fflags": "+bitexact"}  # no random numbers in headers
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1"}
_BLOCK = 4096  # libsndfile overflows its stack on long blocks of Vorbis
_FRAMES_PER_S = 10


def make_audio(sampling_rate: int, num_samples: int, num_channels: int = 1, seed: int = 0) -> Samples:
    """Makes a sound of a few gliding tones in loud and quiet passages of a third of a second, with a little noise.

    Args:
        sampling_rate: Samples per second.
        num_samples: Samples of each channel.
        num_channels: Each channel sounds different.
        seed: Each one gives another sound.

    Returns:
        `(num_channels, num_samples)`, between -1 and 1.
    """
    random = np.random.default_rng(seed)
    time = np.arange(num_samples) / sampling_rate
    loudness = np.where((3 * time).astype(int) % 2 == 0, 1.0, 0.05)
    samples = np.empty((num_channels, num_samples), dtype=np.float32)
    for channel in range(num_channels):
        samples[channel] = 0.02 * random.uniform(-1, 1, num_samples)
        for _ in range(3):
            pitch, glide = random.uniform(0.01, 0.2, size=2) * sampling_rate / 2
            samples[channel] += 0.2 * np.sin(2 * np.pi * (pitch * time + glide * np.minimum(time, 1) ** 2 / 2))
    return (samples * loudness).astype(np.float32)


def encode_audio(
    samples: Samples,
    sampling_rate: int,
    format: str = "wav",
    *,
    vbr: bool = False,
    xing: bool = True,
    id3: bool = True,
) -> bytes:
    """Writes samples to a file's bytes: the same for the same arguments, but for a random serial number in Ogg.

    Args:
        samples: `(num_channels, num_samples)`.
        sampling_rate: Samples per second.
        format: One of `AUDIO_FORMATS`.
        vbr: Whether an MP3 has a variable bit rate.
        xing: Whether an MP3 has the header that states its length.
        id3: Whether an MP3 begins with a tag.

    Raises:
        ValueError: The format is unknown, or does not take this rate or number of channels.
    """
    if format in _SOUNDFILE_FORMATS:
        return _encode_with_soundfile(samples, sampling_rate, *_SOUNDFILE_FORMATS[format])
    if format not in _FFMPEG_FORMATS:
        raise ValueError(f"unknown format {format!r}: expected one of {', '.join(AUDIO_FORMATS)}")
    container_name, codec = _FFMPEG_FORMATS[format]
    buffer = io.BytesIO()
    mp3 = {"write_xing": str(int(xing)), "id3v2_version": "4" if id3 else "0"}
    options = _REPEATABLE | (mp3 if format == "mp3" else {})
    with av.open(buffer, "w", format=container_name, options=options) as container:
        stream = _add_sound(container, codec, sampling_rate, len(samples))
        if vbr:
            stream.codec_context.flags |= av.codec.context.Flags.qscale
            stream.codec_context.global_quality = 4 * 118  # FFmpeg's unit: LAME's -V 4
        _write_sound(container, stream, samples)
    return buffer.getvalue()


def encode_video_with_audio(
    samples: Samples | None,
    sampling_rate: int,
    format: str = "mp4",
    *,
    num_frames: int = 10,
    audio_delay_s: float = 0.0,
) -> bytes:
    """Writes a small video of 10 frames a second with a sound track.

    Args:
        samples: `(num_channels, num_samples)`; no sound track where `None`.
        sampling_rate: Samples per second; 48000 for webm.
        format: `"mp4"`, `"matroska"` or `"webm"`.
        num_frames: Of 64x48 pixels.
        audio_delay_s: How much later than the first frame the sound starts.
    """
    video_codec, audio_codec = _VIDEO_CODECS[format]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format, options=_REPEATABLE) as container:
        video = container.add_stream(video_codec, rate=_FRAMES_PER_S)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = None if samples is None else _add_sound(container, audio_codec, sampling_rate, len(samples))
        for index in range(num_frames):
            picture = np.full((48, 64, 3), 255 * index // num_frames, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None and samples is not None:
            _write_sound(container, sound, samples, start=round(audio_delay_s * sampling_rate))
    return buffer.getvalue()


def write_audio(
    path: str | os.PathLike[str],
    sampling_rate: int = 16000,
    duration_s: float = 1.0,
    num_channels: int = 1,
    seed: int = 0,
    format: str | None = None,
) -> Path:
    """Writes a file of `make_audio` and returns its path; missing folders are made.

    Args:
        path: Where to.
        sampling_rate: Samples per second.
        duration_s: Seconds.
        num_channels: As for `make_audio`.
        seed: As for `make_audio`.
        format: As for `encode_audio`; the path's suffix says it when `None`.
    """
    path = Path(path)
    samples = make_audio(sampling_rate, round(duration_s * sampling_rate), num_channels, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_audio(samples, sampling_rate, format or path.suffix.lower().removeprefix(".")))
    return path


def add_cover_art(mp3: bytes, picture: bytes) -> bytes:
    """Puts an ID3v2.3 tag with a PNG picture before an MP3 file; before `b""`, that makes a file without sound."""
    content = b"\0image/png\0\3\0" + picture
    frame = b"APIC" + len(content).to_bytes(4, "big") + b"\0\0" + content
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + frame + mp3


def clear_flac_length(flac: bytes) -> bytes:
    """Makes the header of a FLAC file say that its length is unknown, as encoders do that write to a pipe."""
    at = 4 + 4 + 13  # signature, block header, and what precedes the 36 bits in the STREAMINFO block
    return flac[:at] + bytes([flac[at] & 0xF0]) + bytes(4) + flac[at + 5 :]


def _encode_with_soundfile(samples: Samples, sampling_rate: int, format: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", sampling_rate, len(samples), subtype, format=format) as sound:
        for start in range(0, samples.shape[1], _BLOCK):
            sound.write(np.ascontiguousarray(samples[:, start : start + _BLOCK].T))
    return buffer.getvalue()


def _add_sound(
    container: av.container.OutputContainer, codec: str, sampling_rate: int, num_channels: int
) -> av.AudioStream:
    stream = container.add_stream(codec, rate=sampling_rate)
    stream.layout = _LAYOUTS[num_channels]
    return stream


def _write_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: Samples, start: int = 0
) -> None:
    if samples.shape[1]:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout=_LAYOUTS[len(samples)])
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, start, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
