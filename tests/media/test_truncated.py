"""Media that ends too early: refused where the file tells, or used as far as Pillow and FFmpeg give it."""

from __future__ import annotations

import io
import threading
from functools import cache

import av
import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import soundfile
import torch

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.header import with_truncated
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.media.whole import count_missing
from mmdatasets.options import MediaOptions
from mmdatasets.testing.video import VideoSpec, encode_video
from mmdatasets.types import FramePlan
from tests.media.image_cases import encode, oracle, photo

REFUSING = MediaOptions()
ACCEPTING = MediaOptions(allow_truncated=True)
CUTS = (0.97, 0.6)
IMAGES = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
VIDEOS = {
    "mp4 with the index first": ("mp4", {"movflags": "faststart"}),
    "mp4 in fragments": ("mp4", FRAGMENTS),
    "mov": ("mov", {"movflags": "faststart"}),
    "matroska": ("matroska", {}),
    "avi": ("avi", {}),
    "flv": ("flv", {}),
}
SOUNDS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64")


@cache
def video(name: str) -> bytes:
    format, options = VIDEOS[name]
    return encode_video(VideoSpec(num_frames=30, format=format, container_options=options))


@cache
def sound(format: str) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, (44_100, 2)).clip(-1, 1)
    soundfile.write(file, samples, 44_100, format=format)
    return file.getvalue()


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def outcome(function, *args):
    """What a call gives: a value, or that it fails."""
    try:
        return function(*args)
    except Exception:
        return None


@pytest.mark.parametrize("backend", ["pillow", "auto"])
@pytest.mark.parametrize("format", IMAGES)
@pytest.mark.parametrize("share", CUTS)
def test_images_are_what_pillow_makes_of_them_with_its_own_switch(format, share, backend, monkeypatch):
    data = cut(encode(photo(), format), share)
    with pytest.raises(MediaDecodeError):
        decode_image(data, REFUSING)
    options = MediaOptions(allow_truncated=True, image_backend=backend)
    found, size = outcome(decode_image, data, options), outcome(probe_image, data, options)
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is False
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    expected = outcome(oracle, data)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert torch.equal(found, expected)
        assert (3, size.height, size.width) == expected.shape
    if format in ("JPEG", "PNG", "BMP", "TIFF"):
        assert found is not None


def test_whole_images_stay_as_they_are():
    for format in IMAGES:
        data = encode(photo(), format)
        assert torch.equal(decode_image(data, ACCEPTING), decode_image(data, REFUSING))


def test_no_other_thread_takes_cut_images_meanwhile():
    data, failures = cut(encode(photo(), "JPEG"), 0.5), []

    def decode() -> None:
        failures.append(outcome(lambda: PIL.Image.open(io.BytesIO(data)).load()) is None)

    with with_truncated(ACCEPTING):
        assert PIL.Image.open(io.BytesIO(data)).load() is not None
        other = threading.Thread(target=decode)
        other.start()
        other.join()
    assert failures == [True]


def frames_by_ffmpeg(data: bytes) -> list[np.ndarray]:
    """All that decodes, what does not being left out."""
    frames = []
    with av.open(io.BytesIO(data)) as container:
        for packet in container.demux(video=0):
            frames += outcome(packet.decode) or []
    return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("share", CUTS)
def test_videos_are_refused_or_as_far_as_ffmpeg_goes(name, share):
    data = cut(video(name), share)
    for function in (probe_video, lambda data, options: decode_frames(data, FramePlan((0,)), options)):
        with pytest.raises(MediaDecodeError, match="cut off"):
            function(data, REFUSING)
    expected = frames_by_ffmpeg(data)
    info = probe_video(data, ACCEPTING)
    assert info.num_frames == len(expected)
    assert len(expected) < 30 or (name, share) == ("avi", 0.97)  # its index is at the end
    chosen = (0, info.num_frames // 2, info.num_frames - 1)
    frames = decode_frames(data, FramePlan(chosen, tuple(info.timestamps_s[list(chosen)].tolist())), ACCEPTING)
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), np.stack([expected[index] for index in chosen]))


def samples_by_ffmpeg(data: bytes) -> np.ndarray:
    frames = []
    with av.open(io.BytesIO(data)) as container:
        packets = container.demux(audio=0)
        while (packet := outcome(next, packets)) is not None:
            frames += outcome(packet.decode) or []
    resampler = av.AudioResampler(format="fltp")
    return np.concatenate([part.to_ndarray() for frame in frames for part in resampler.resample(frame)], axis=1).mean(
        axis=0
    )


@pytest.mark.parametrize("backend", ["soundfile", "pyav"])
@pytest.mark.parametrize("format", SOUNDS)
def test_audio_is_refused_or_as_far_as_ffmpeg_goes(format, backend):
    data = cut(sound(format), 0.6)
    with pytest.raises(MediaDecodeError, match="cut off"):
        probe_audio(data, MediaOptions(audio_backend=backend))
    options = MediaOptions(audio_backend=backend, allow_truncated=True)
    samples, expected = decode_audio(data, options, 44_100), samples_by_ffmpeg(data)
    assert probe_audio(data, options).num_samples == len(samples) == len(expected) < 44_100
    np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_whole_files_miss_nothing():
    for data in [*map(video, VIDEOS), *map(sound, SOUNDS)]:
        assert count_missing(io.BytesIO(data)) == 0
        assert count_missing(io.BytesIO(b"")) == 0


@pytest.mark.parametrize("name", VIDEOS)
def test_any_cut_of_a_video_is_an_error_or_what_decodes(name):
    data = video(name)
    for end in range(1, len(data) * 11 // 12 + 2, len(data) // 12):  # the last bytes may be no frame
        with pytest.raises(MediaError):
            probe_video(data[:end], REFUSING)
        info = outcome(probe_video, data[:end], ACCEPTING)
        assert info is None or info.num_frames == len(frames_by_ffmpeg(data[:end]))
