"""Remote files: how little of them is read for what they say of themselves, and what becomes of servers that fail."""

from __future__ import annotations

import io
import time
import zipfile
from dataclasses import replace
from functools import cache, partial

import av
import fsspec
import numpy as np
import pytest
import soundfile

from mmdatasets.errors import MediaError, MediaNotFoundError
from mmdatasets.media.audio import decode_audio, probe_audio
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.media.ranges import BLOCK, LARGEST_REQUEST, RangeCache
from mmdatasets.media.remote import open_url, remote_version
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.media import encode_image
from mmdatasets.testing.video import VideoSpec, encode_video
from mmdatasets.types import FramePlan, VideoInfo
from tests.media.web_server import serving

pytest.importorskip("aiohttp", reason="fsspec opens http(s) with aiohttp")

OPTIONS = MediaOptions(allow_http=True, allow_private_addresses=True)
LOCAL = MediaOptions()
MEGABYTE = 1_000_000
FILLER = b"\0\0\0\1\x0c"  # H.264, ISO/IEC 14496-10, section 7.3.2.7: a unit of bytes that mean nothing


@pytest.fixture
def server():
    with serving() as state:
        yield state


@pytest.fixture(scope="module")
def large_video(tmp_path_factory):
    """Makes a video of 20 MB, of few frames with much filling."""

    def make(format: str, **container_options: str) -> bytes:
        small = encode_video(VideoSpec(num_frames=40, format="h264"))
        path = tmp_path_factory.mktemp("videos") / "video"
        with (
            av.open(io.BytesIO(small), format="h264") as source,
            av.open(str(path), "w", format=format, options=container_options) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux(video=0)):
                if packet.size:
                    filled = av.Packet(bytes(packet) + FILLER + b"\xff" * (20 * MEGABYTE // 40) + b"\x80")
                    filled.stream, filled.time_base, filled.is_keyframe = stream, stream.time_base, packet.is_keyframe
                    filled.pts = filled.dts = round(number / 25 / stream.time_base)
                    target.mux(filled)
        return path.read_bytes()

    return make


@cache
def noise(format: str, seconds: int) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.2, 44_100 * seconds).clip(-1, 1)
    soundfile.write(file, samples, 44_100, format=format)
    return file.getvalue()


@cache
def grainy_video(format: str) -> bytes:
    return encode_video(VideoSpec(num_frames=60, width=320, height=240, format=format, codec_options={"crf": "1"}))


@pytest.mark.parametrize("container_options", [{}, {"movflags": "faststart"}], ids=["index at end", "index at start"])
def test_a_video_with_an_index_is_probed_by_a_few_ranges(server, large_video, container_options):
    data = large_video("mp4", **container_options)
    assert len(data) >= 20 * MEGABYTE
    assert (data.index(b"moov") < MEGABYTE) == bool(container_options)
    url = server.add("video.mp4", data)
    found, expected = probe_video(url, OPTIONS), probe_video(data, LOCAL)
    assert np.array_equal(found.timestamps_s, expected.timestamps_s)
    assert (found.num_frames, found.width, found.height) == (40, 112, 64)
    assert server.num_bytes < 0.1 * len(data)
    assert len(server.requests) <= 6


@pytest.mark.parametrize("format", ["matroska", "mpegts"])
def test_a_video_without_an_index_is_read_once_in_sequence(server, large_video, format):
    data = large_video(format)
    url = server.add("video", data)
    found, expected = probe_video(url, OPTIONS), probe_video(data, LOCAL)
    assert np.array_equal(found.timestamps_s, expected.timestamps_s)
    assert server.num_bytes < 1.1 * len(data)
    assert len(server.requests) < 30


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_probed_by_its_header(server, format):
    data = encode_image(1600, 1200, format=format)
    url = server.add("image", data)
    assert probe_image(url, OPTIONS) == probe_image(data, LOCAL)
    assert server.num_bytes <= max(0.1 * len(data), 3 * BLOCK)
    assert len(server.requests) <= 5


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3"])
def test_audio_is_probed_by_its_header(server, format):
    data = noise(format, 30)
    url = server.add("audio", data)
    assert probe_audio(url, OPTIONS) == probe_audio(data, LOCAL)
    assert server.num_bytes <= max(0.1 * len(data), 2 * BLOCK)
    assert len(server.requests) <= 5


def test_what_is_decoded_is_what_the_file_has(server):
    image, video, sound = encode_image(300, 200), encode_video(VideoSpec()), noise("FLAC", 1)
    plan = FramePlan((0, 7, 30))
    assert decode_image(server.add("i", image), OPTIONS).equal(decode_image(image, LOCAL))
    assert decode_frames(server.add("v", video), plan, OPTIONS).equal(decode_frames(video, plan, LOCAL))
    found, expected = decode_audio(server.add("a", sound), OPTIONS, 16_000), decode_audio(sound, LOCAL, 16_000)
    assert np.array_equal(found, expected)


PROBES = {
    "image": (partial(encode_image, 900, 700, format="PNG"), probe_image),
    "indexed video": (partial(grainy_video, "mp4"), probe_video),
    "scanned video": (partial(grainy_video, "mpegts"), probe_video),
    "wav": (partial(noise, "WAV", 2), probe_audio),
    "flac": (partial(noise, "FLAC", 2), probe_audio),
    "mp3": (partial(noise, "MP3", 20), probe_audio),
}


def same(found: object, expected: object) -> bool:
    if isinstance(found, VideoInfo) and isinstance(expected, VideoInfo):
        return np.array_equal(found.timestamps_s, expected.timestamps_s)
    return found == expected


@pytest.mark.parametrize("what", PROBES)
@pytest.mark.parametrize("fault", ["no ranges", "ranges refused", "no length"])
def test_without_ranges_a_file_is_read_whole(server, what, fault):
    make, probe = PROBES[what]
    data = make()
    server.fault = fault
    assert same(probe(server.add("file", data), OPTIONS), probe(data, LOCAL))
    assert len(server.requests) <= 5


@pytest.mark.parametrize("what", PROBES)
@pytest.mark.parametrize("fault", ["closes", "ends early", "silent"])
def test_a_server_that_fails_is_an_error_that_says_so(server, what, fault, capfd):
    make, probe = PROBES[what]
    server.fault = fault
    url = server.add("file?token=secret", make())
    start = time.monotonic()
    with pytest.raises(MediaNotFoundError, match=r"read to its end|bytes when asked|cannot be opened") as caught:
        probe(url, replace(OPTIONS, http_timeout_s=0.3))
    assert time.monotonic() - start < 10
    assert server.address in str(caught.value)
    assert "secret" not in str(caught.value)
    assert capfd.readouterr().err == ""  # libsndfile calls back, and what that raises would be printed


@pytest.mark.parametrize("what", PROBES)
@pytest.mark.parametrize("fault", ["short", "long"])
def test_a_wrong_length_is_an_error_or_does_not_matter(server, what, fault):
    """Of a file that is stated as shorter than it is, its beginning is all that a client can know."""
    make, probe = PROBES[what]
    data = make()
    server.fault = fault
    url = server.add("file", data)
    is_cut = what == "scanned video" and fault == "long"
    try:
        found, expected = probe(url, OPTIONS), probe(data[: len(data) // 2] if is_cut else data, LOCAL)
    except MediaError:
        return
    assert same(found, expected)


def test_what_is_not_there_is_told_from_what_fails(server):
    with pytest.raises(MediaNotFoundError, match="nothing is stored under the URL"):
        open_url(f"{server.address}/missing", OPTIONS)
    server.fault = "refuses"
    with pytest.raises(MediaNotFoundError, match="cannot be opened: the server answers 403"):
        open_url(server.add("file", b"content"), OPTIONS)


def test_a_server_that_is_not_there(server):
    with pytest.raises(MediaNotFoundError, match="cannot be opened"):
        open_url("http://127.0.0.1:9/nothing", OPTIONS)


def test_a_version_is_told_without_reading(server):
    data = encode_image(64, 48)
    url = server.add("image.jpg", data)
    first = remote_version(url, OPTIONS)
    assert first is not None
    assert "ETag" in first
    assert remote_version(url, OPTIONS) == first
    assert server.num_bytes == 0
    assert {method for method, _ in server.requests} == {"HEAD"}
    server.add("image.jpg", encode_image(64, 48, seed=1))
    assert remote_version(url, OPTIONS) not in (first, None)


def test_no_version_is_told_where_nothing_says_it(server):
    url = server.add("image.jpg", encode_image(64, 48))
    server.etags = False
    assert remote_version(url, OPTIONS) is None
    assert remote_version(url, LOCAL) is None  # http is not allowed
    assert remote_version(f"{server.address}/missing", OPTIONS) is None


def test_other_filesystems_tell_versions_too(tmp_path):
    with fsspec.open("memory://bucket/photo.png", "wb") as file:
        file.write(b"one")
    first = remote_version("memory://bucket/photo.png", LOCAL)
    assert first is not None
    time.sleep(0.001)
    with fsspec.open("memory://bucket/photo.png", "wb") as file:
        file.write(b"two")
    assert remote_version("memory://bucket/photo.png", LOCAL) not in (None, first)
    fsspec.filesystem("memory").store.clear()
    versions = []
    for content in (b"one", b"two"):
        archive = tmp_path / f"{content.decode()}.zip"
        with zipfile.ZipFile(archive, "w") as writer:
            writer.writestr(zipfile.ZipInfo("a.png"), content)
        versions.append(remote_version(f"zip://a.png::{archive}", LOCAL))
    assert None not in versions
    assert versions[0] != versions[1]


def test_ranges_grow_where_reading_goes_on_and_are_kept():
    data = np.random.default_rng(0).integers(0, 256, 40 * MEGABYTE, dtype=np.uint8).tobytes()
    asked: list[tuple[int, int]] = []

    def fetch(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    cache = RangeCache(fetch, len(data))
    assert b"".join(cache._fetch(at, at + 30_000) for at in range(0, len(data), 30_000)) == data
    assert sum(end - start for start, end in asked) == len(data)
    assert len(asked) < 15
    assert max(end - start for start, end in asked) == LARGEST_REQUEST
    asked.clear()
    cache = RangeCache(fetch, len(data))
    for _ in range(3):
        for at in (0, 20 * MEGABYTE, len(data) - 10):
            assert cache._fetch(at, at + 100) == data[at : at + 100]
    assert len(asked) == 3
    assert cache._fetch(1_000, 30 * MEGABYTE) == data[1_000 : 30 * MEGABYTE]
    assert cache._fetch(len(data), len(data) + 5) == b""
    assert cache._fetch(None, None) == data
