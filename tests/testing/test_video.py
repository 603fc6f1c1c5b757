from __future__ import annotations

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets.testing import VideoSpec, encode_video, make_frame, read_frame_number, video_samples, write_video
from mmdatasets.testing.mp4_boxes import edit_mp4, find_box, turn_mp4
from mmdatasets.testing.video import MAX_FRAMES


@given(number=st.integers(0, MAX_FRAMES - 1), width=st.integers(16, 200), height=st.integers(16, 200))
def test_a_frame_carries_its_number(number, width, height):
    frame = make_frame(number, width, height)
    assert (frame.shape, frame.dtype) == ((height, width, 3), np.uint8)
    assert read_frame_number(frame) == number
    assert np.array_equal(make_frame(number, width, height), frame)


@given(number=st.integers(0, MAX_FRAMES - 1), seed=st.integers(0, 99))
def test_the_number_survives_noise(number, seed):
    noise = np.random.default_rng(seed).normal(0, 20, size=(64, 112, 3))
    assert read_frame_number((make_frame(number) + noise).clip(0, 255).astype(np.uint8)) == number


def test_another_picture_has_no_number():
    grey = np.full((64, 112, 3), 128, dtype=np.uint8)
    with pytest.raises(ValueError, match="neither bright nor dark"):
        read_frame_number(grey)
    turned = sum(_has_number(np.rot90(make_frame(number), turns)) for number in range(200) for turns in (1, 2, 3))
    assert turned < 60  # one in 16 by chance


def _has_number(pixels: np.ndarray) -> bool:
    try:
        read_frame_number(pixels)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("number", [-1, MAX_FRAMES])
def test_numbers_out_of_range(number):
    with pytest.raises(ValueError, match=f"got {number}"):
        make_frame(number)


def test_a_video_is_as_specified(tmp_path):
    spec = VideoSpec(num_frames=10, width=64, height=48, rate=Fraction(30000, 1001), audio_codec="aac", gop=5)
    path = write_video(tmp_path / "new" / "clip.mp4", spec)
    with av.open(str(path)) as container:
        (video,), (audio,) = container.streams.video, container.streams.audio
        frames = list(container.decode(video))
        assert (video.codec_context.name, video.average_rate) == ("h264", Fraction(30000, 1001))
        assert audio.codec_context.name == "aac"
    assert [read_frame_number(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(10))
    assert [frame.key_frame for frame in frames] == [True, *[False] * 4] * 2
    assert (frames[0].width, frames[0].height) == (64, 48)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_stored_turned(degrees):
    spec = VideoSpec(num_frames=3, width=64, height=48, turned=degrees)
    with av.open(io.BytesIO(encode_video(spec))) as container:
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height) == spec.stored_size == ((48, 64) if degrees != 180 else (64, 48))
    assert frame.rotation % 360 == (360 - degrees) % 360
    assert read_frame_number(np.rot90(frame.to_ndarray(format="rgb24"), -degrees // 90)) == 0


def test_boxes_of_an_mp4():
    data = encode_video(VideoSpec(num_frames=5))
    assert turn_mp4(data, 0) == data
    edited = edit_mp4(data, [(40, -1), (80, 1024), (40, 1536)])
    assert len(edited) == len(data) + 24
    start, end = find_box(edited, b"elst")
    assert edited[start + 4 : start + 8] == (3).to_bytes(4, "big")
    assert end - start == 8 + 3 * 12
    with pytest.raises(ValueError, match="no box 'abcd'"):
        find_box(data, b"abcd")


def test_the_catalogue():
    samples = video_samples()
    assert set(samples) == set(video_samples())
    for name, sample in samples.items():
        assert sample.suffix.startswith(".")
        if sample.problem is not None:
            assert sample.numbers is None
            re.compile(sample.problem)
        assert callable(sample.make), name
