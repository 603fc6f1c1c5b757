"""Videos that are damaged, too large, or come from files that misbehave: an error, and nothing left open."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.errors import MediaDecodeError, MediaError, MediaLimitError
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.options import MediaOptions
from mmdatasets.testing.video import VideoSpec, encode_video, make_frame
from mmdatasets.types import FramePlan
from tests.media.video_cases import OPTIONS, file_of


def decode_first(reference: object, options: MediaOptions) -> None:
    decode_frames(reference, FramePlan((0,)), options)


def test_still_images_are_no_videos():
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        PIL.Image.fromarray(make_frame(3)).save(buffer, name)
        with pytest.raises(MediaDecodeError, match=r"still image.*\[image\]"):
            probe_video(buffer.getvalue(), OPTIONS)


@pytest.mark.parametrize("name", ["h264", "h264_fragmented", "vp9", "h264_ts", "gif"])
def test_frames_of_too_many_pixels_are_refused(name):
    options = MediaOptions(image_pixel_limit=112 * 64 - 1)
    for function in (probe_video, decode_first):
        with pytest.raises(MediaLimitError, match="the frame is 112x64"):
            function(file_of(name), options)
    assert probe_video(file_of(name), MediaOptions(image_pixel_limit=112 * 64)).num_frames == 40


def test_frames_that_grow_beyond_the_limit_are_refused():
    small, large = VideoSpec(format="mpegts", width=48, height=32), VideoSpec(format="mpegts")
    grown = encode_video(small) + encode_video(large)
    with pytest.raises((MediaLimitError, MediaDecodeError)):
        probe_video(grown, MediaOptions(image_pixel_limit=48 * 32))


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_files_give_errors_and_nothing_worse(data):
    name = data.draw(
        st.sampled_from(["h264_sound", "h264_fragmented", "h264_matroska", "h264_ts", "vp9", "mpeg4_avi"])
    )
    content = bytearray(file_of(name))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(1, 200))] = data.draw(st.binary(max_size=60))
    try:
        info = probe_video(bytes(content), OPTIONS)
        frames = decode_frames(bytes(content), FramePlan((0, info.num_frames - 1)), OPTIONS)
    except MediaError:
        return
    assert frames.shape == (2, 3, info.height, info.width)


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "clip.mp4"
    file.write_bytes(file_of("h264_sound"))
    return file


def test_files_are_closed(path):
    def descriptors() -> list[str]:
        return sorted(file.name for file in Path("/proc/self/fd").iterdir())

    probe_video(path, OPTIONS)
    before = descriptors()
    for _ in range(3):
        probe_video(path, OPTIONS)
        decode_frames(path, FramePlan((0, 20)), OPTIONS)
        for name in ("cut_off", "sound_only", "h264_avi"):
            broken = path.with_name(name)
            broken.write_bytes(file_of(name))
            with pytest.raises(MediaDecodeError):
                decode_frames(broken, FramePlan((1000,)), OPTIONS)
    assert descriptors() == before


class Misbehaving(io.BytesIO):
    """Reads more than it was asked for: what would overrun a buffer of PyAV's."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size).ljust((size or 0) + 1)


class Failing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 40_000:
            raise ConnectionError("the line is dead")
        return super().read(size)


def test_file_objects_that_misbehave():
    with pytest.raises(MediaDecodeError, match="bytes when asked for"):
        probe_video(Misbehaving(file_of("h264")), OPTIONS)
    for format in ("mp4", "mpegts", "matroska"):
        data = encode_video(VideoSpec(num_frames=300, format=format))
        assert len(data) > 60_000
        with pytest.raises(MediaDecodeError, match="the line is dead"):
            probe_video(Failing(data), OPTIONS)
