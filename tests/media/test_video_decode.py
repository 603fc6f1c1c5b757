"""Decoding planned frames: each is, pixel for pixel, the one that a decode of the whole file gives at that place."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmdatasets.errors import MediaDecodeError, MediaLimitError, MediaNotFoundError, MediaReferenceError
from mmdatasets.media.clip import split_clip
from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.media.video_store import video_to_stored
from mmdatasets.options import MediaOptions
from mmdatasets.testing.video import VideoSpec, make_frame, read_frame_number, write_video
from mmdatasets.types import FramePlan
from tests.media.video_cases import CORPUS, GOOD, OPTIONS, channels_last, decoded, file_of


def plan_of(name, indices):
    times = decoded(name).times_s
    return FramePlan(tuple(indices), None if times is None else tuple(float(times[index]) for index in indices))


def draw_indices(data, name):
    last = len(decoded(name).pixels) - 1
    return sorted(data.draw(st.lists(st.integers(0, last), min_size=1, max_size=12)))


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_frames_are_those_of_a_full_decode(name, data):
    indices = draw_indices(data, name)
    frames = decode_frames(file_of(name), plan_of(name, indices), OPTIONS)
    assert (frames.dtype, frames.ndim, frames.shape[1]) == (torch.uint8, 4, 3)
    assert [read_frame_number(frame) for frame in channels_last(frames)] == [
        CORPUS[name].numbers[index] for index in indices
    ]
    assert np.array_equal(channels_last(frames), decoded(name).pixels[indices])


@pytest.mark.parametrize("name", GOOD)
def test_all_frames_are_those_of_a_full_decode(name):
    whole = decoded(name)
    frames = decode_frames(file_of(name), plan_of(name, range(len(whole.pixels))), OPTIONS)
    assert np.array_equal(channels_last(frames), whole.pixels)
    assert frames.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("name", ["h264", "hevc_open_gop_matroska", "h264_ts", "mpeg4_avi_b_frames"])
def test_every_form_of_reference_gives_the_same_frames(name, tmp_path):
    data, plan = file_of(name), plan_of(name, (3, 11, 11, 30))
    path = tmp_path / "without a suffix"
    path.write_bytes(data)
    expected = decoded(name).pixels[list(plan.indices)]
    file = io.BytesIO(data)
    file.seek(9)
    with path.open("rb") as opened:
        references = [path, str(path), path.as_uri(), bytearray(data), memoryview(data), file, opened]
        references += [{"path": str(path), "bytes": None}, {"path": "gone.mp4", "bytes": data}]
        references += [{"path": str(path), "start": 0.2, "end": 0.3}]
        for reference in references:
            assert np.array_equal(channels_last(decode_frames(reference, plan, OPTIONS)), expected)
        assert file.tell() == 9
        assert not opened.closed


def test_a_plan_for_another_file_is_refused():
    with pytest.raises(MediaDecodeError, match="frame 40, but the video has 40 frames"):
        decode_frames(file_of("h264"), FramePlan((0, 40)), OPTIONS)
    with pytest.raises(MediaDecodeError, match=r"frame 7 is planned at 0\.290000 s, but is shown at 0\.280000 s"):
        decode_frames(file_of("h264"), FramePlan((0, 7), (0.0, 0.29)), OPTIONS)
    with pytest.raises(MediaDecodeError, match="the plan has frame -1"):
        decode_frames(file_of("h264"), FramePlan((-1, 7)), OPTIONS)
    with pytest.raises(MediaDecodeError, match=r"frame 7 is planned at 0\.290000 s"):
        decode_frames(file_of("mpeg4_avi_b_frames"), FramePlan((0, 7), (0.0, 0.29)), OPTIONS)


def test_times_of_32_bits_are_near_enough():
    times = [float(np.float32(time)) for time in decoded("h264_ntsc").times_s]
    assert len(decode_frames(file_of("h264_ntsc"), FramePlan(tuple(range(40)), tuple(times)), OPTIONS)) == 40


def test_frames_beyond_the_limit_are_refused():
    with pytest.raises(MediaLimitError, match="112x64"):
        decode_frames(file_of("h264"), FramePlan((0,)), MediaOptions(image_pixel_limit=112 * 64 - 1))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaNotFoundError, match=r"none\.mp4"):
        decode_frames(tmp_path / "none.mp4", FramePlan((0,)), OPTIONS)


MEMORY = """
import json, pathlib, re, sys
from mmdatasets.media.video import decode_frames
from mmdatasets.options import MediaOptions
from mmdatasets.types import FramePlan
path, count = sys.argv[1], int(sys.argv[2])
status = pathlib.Path("/proc/self/status")  # of this program alone, unlike getrusage, which knows its parent's
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1])
decode_frames(path, FramePlan((0,)), MediaOptions())
before = peak()
frames = decode_frames(path, FramePlan(tuple(range(count))), MediaOptions())
print(json.dumps([peak() - before, frames.numel()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("format", ["mp4", "mpegts"])
def test_decoding_takes_little_more_memory_than_the_frames(format, tmp_path):
    path = write_video(tmp_path / "video", VideoSpec(num_frames=160, width=640, height=360, gop=60, format=format))
    command = [sys.executable, "-c", MEMORY, str(path), "160"]
    extra, size = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert size == 160 * 640 * 360 * 3
    assert size / 2 < extra < 1.3 * size


# Lists of frames


@pytest.fixture
def pictures(tmp_path):
    """Six frames, in every form that an image may have."""
    images = [Image.fromarray(make_frame(number)) for number in range(6)]
    path, buffer = tmp_path / "1.png", io.BytesIO()
    images[1].save(path)
    images[2].save(buffer, "png")
    array = np.asarray(images[3])
    tensor = torch.from_numpy(np.array(images[4])).permute(2, 0, 1)
    return [images[0], str(path), buffer.getvalue(), array, tensor, {"path": None, "bytes": buffer.getvalue()}]


NUMBERS = [0, 1, 2, 3, 4, 2]


def test_a_list_of_frames(pictures):
    info = probe_video(pictures, OPTIONS)
    assert (info.num_frames, info.width, info.height, info.has_audio) == (6, 112, 64, False)
    assert info.timestamps_s is info.fps is info.duration_s is None
    frames = channels_last(decode_frames(pictures, FramePlan((0, 1, 1, 2, 3, 4, 5)), OPTIONS))
    expected = [0, 1, 1, 2, 3, 4, 2]
    assert np.array_equal(frames, np.stack([make_frame(number) for number in expected]))


def test_a_list_of_frames_with_a_rate(pictures):
    reference = {"frames": pictures, "fps": 4, "start": 0.5, "end": 1.0}
    info = probe_video(reference, OPTIONS)
    assert (info.fps, info.duration_s) == (4, 1.5)
    assert info.timestamps_s.tolist() == [0, 0.25, 0.5, 0.75, 1.0, 1.25]
    frames = decode_frames(reference, FramePlan((2, 5), (0.5, 1.25)), OPTIONS)
    assert [read_frame_number(frame) for frame in channels_last(frames)] == [NUMBERS[2], NUMBERS[5]]
    with pytest.raises(MediaDecodeError, match="frame 5 is planned at"):
        decode_frames(reference, FramePlan((2, 5), (0.5, 1.0)), OPTIONS)


def test_an_array_of_frames():
    array = np.stack([make_frame(number) for number in range(3)])
    assert probe_video(array, OPTIONS).num_frames == 3
    assert np.array_equal(channels_last(decode_frames(array, FramePlan((0, 2)), OPTIONS)), array[[0, 2]])
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    assert torch.equal(decode_frames(tensor, FramePlan((1,)), OPTIONS), tensor[1:2])


def test_frames_of_different_sizes_are_refused(pictures):
    pictures[4] = Image.new("RGB", (112, 65))
    with pytest.raises(MediaDecodeError, match=r"frame 4 .*is 112x65 pixels, frame 0 is 112x64"):
        probe_video(pictures, OPTIONS)
    with pytest.raises(MediaDecodeError, match="frame 4 is 112x65 pixels"):
        decode_frames(pictures, FramePlan((0, 4)), OPTIONS)


def test_a_frame_that_cannot_be_read_is_named(pictures, tmp_path):
    pictures[3] = str(tmp_path / "gone.png")
    for call in (
        lambda: probe_video(pictures, OPTIONS),
        lambda: decode_frames(pictures, FramePlan((0, 3)), OPTIONS),
    ):
        with pytest.raises(MediaNotFoundError, match=r"gone\.png: frame 3: "):
            call()


@pytest.mark.parametrize("empty", [[], {"frames": []}])
def test_an_empty_list_is_refused(empty):
    with pytest.raises(MediaReferenceError, match="at least one"):
        probe_video(empty, OPTIONS)


def test_a_plan_beyond_the_list_is_refused(pictures):
    with pytest.raises(MediaDecodeError, match="frame 6, but the video has 6 frames"):
        decode_frames(pictures, FramePlan((0, 6)), OPTIONS)


# Clips


def test_a_clip_is_taken_apart():
    clip = split_clip({"path": "a.mp4", "bytes": None, "start": 1, "end": 2.5})
    assert (clip.reference, clip.fps, clip.start_s, clip.end_s) == ({"path": "a.mp4", "bytes": None}, None, 1.0, 2.5)
    clip = split_clip({"frames": ["0.png"], "fps": 2, "start": None})
    assert (clip.reference, clip.fps, clip.start_s, clip.end_s) == (["0.png"], 2.0, None, None)
    assert split_clip("a.mp4").reference == "a.mp4"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ({"path": "a.mp4", "start": 2, "end": 2}, "before 'end'"),
        ({"path": "a.mp4", "start": -1}, "number of seconds, 0 or more, got -1"),
        ({"path": "a.mp4", "start": float("nan")}, "got nan"),
        ({"path": "a.mp4", "end": "3"}, "got '3'"),
        ({"path": "a.mp4", "end": True}, "got True"),
        ({"path": "a.mp4", "fps": 2}, "'fps' belongs to a list of 'frames'"),
        ({"path": "a.mp4", "frames": ["0.png"]}, "has both"),
        ({"frames": "0.png", "fps": 1}, "must be a list of images, got str"),
        ({"frames": ["0.png"], "fps": 0}, "greater than 0"),
        ({"frames": ["0.png"], "start": 1}, "needs the 'fps'"),
    ],
)
def test_a_clip_without_sense_is_refused(reference, problem):
    with pytest.raises(MediaReferenceError, match=problem):
        split_clip(reference)
    with pytest.raises(MediaReferenceError, match=problem):
        probe_video(reference, OPTIONS)


# What Arrow keeps


def test_files_are_stored_as_references(tmp_path):
    assert video_to_stored("a.mp4") == ({"bytes": None, "path": "a.mp4"}, [])
    assert video_to_stored({"path": "a.mp4", "bytes": b"x", "start": 1.0}) == ({"bytes": b"x", "path": "a.mp4"}, [])
    assert video_to_stored(b"x") == ({"bytes": b"x", "path": None}, [])


def test_frames_are_stored_as_images(pictures):
    file, frames = video_to_stored({"frames": pictures, "fps": 4})
    assert file == {"bytes": None, "path": None}
    restored = decode_frames(frames, FramePlan(tuple(range(6))), OPTIONS)
    assert [read_frame_number(frame) for frame in channels_last(restored)] == NUMBERS


def test_the_file_of_a_decoder_object_is_stored():
    # What `datasets.Video` adds to torchcodec's decoder, which itself needs FFmpeg to be made.
    decoder = SimpleNamespace(_hf_encoded={"path": "a.mp4", "bytes": None})
    assert video_to_stored(decoder) == ({"bytes": None, "path": "a.mp4"}, [])
