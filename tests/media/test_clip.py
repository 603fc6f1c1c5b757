from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdatasets.errors import MediaReferenceError
from mmdatasets.media.clip import is_frame_list, split_clip


@pytest.mark.parametrize("reference", ["clip.mp4", b"data", None, ["a.png", "b.png"], 3])
def test_what_is_no_mapping_is_the_whole_of_itself(reference):
    clip = split_clip(reference)
    assert clip.reference is reference
    assert clip.fps is clip.start_s is clip.end_s is None


def test_a_file_with_a_part():
    clip = split_clip({"path": "clip.mp4", "bytes": None, "start": 1, "end": np.float32(2.5)})
    assert clip.reference == {"path": "clip.mp4", "bytes": None}
    assert (clip.fps, clip.start_s, clip.end_s) == (None, 1.0, 2.5)
    assert split_clip({"path": "clip.mp4", "start": None, "end": 3, "frames": None, "fps": None}).end_s == 3.0


def test_frames_with_a_rate():
    frames = ["a.png", "b.png"]
    clip = split_clip({"frames": frames, "fps": np.int64(2), "start": 0.5, "path": None})
    assert clip.reference is frames
    assert (clip.fps, clip.start_s, clip.end_s) == (2.0, 0.5, None)
    assert split_clip({"frames": frames}).fps is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"path": "a.mp4", "start": 2, "end": 1}, r"'start' \(2 s\) must be before 'end' \(1 s\)"),
        ({"path": "a.mp4", "start": 2, "end": 2}, "must be before"),
        ({"path": "a.mp4", "start": -1}, "'start' must be a number of seconds, 0 or more, got -1"),
        ({"path": "a.mp4", "end": float("nan")}, "'end' must be a number of seconds"),
        ({"path": "a.mp4", "end": float("inf")}, "'end' must be a number of seconds"),
        ({"path": "a.mp4", "end": "3"}, "'end' must be a number of seconds, 0 or more, got '3'"),
        ({"path": "a.mp4", "start": True}, "'start' must be a number of seconds"),
        ({"path": "a.mp4", "fps": 2}, "'fps' belongs to a list of 'frames'.*MediaOptions.video_fps"),
        ({"frames": ["a.png"], "bytes": b"x"}, "either 'frames' or a file"),
        ({"frames": ["a.png"], "path": "a.mp4"}, "either 'frames' or a file"),
        ({"frames": "a.png"}, "'frames' must be a list of images, got str"),
        ({"frames": ["a.png"], "fps": 0}, "'fps' must be greater than 0"),
        ({"frames": ["a.png"], "fps": "2"}, "'fps' must be a number of frames per second"),
        ({"frames": ["a.png"], "start": 1}, "needs the 'fps'"),
    ],
)
def test_mappings_that_make_no_sense(reference, message):
    with pytest.raises(MediaReferenceError, match=message):
        split_clip(reference)


@pytest.mark.parametrize("value", [[], ["a"], ("a",), np.zeros((2, 4, 4, 3)), torch.zeros(2, 3, 4, 4)])
def test_lists_of_frames(value):
    assert is_frame_list(value)


@pytest.mark.parametrize("value", ["a", b"a", bytearray(b"a"), memoryview(b"a"), None, 3, {}, np.zeros((4, 4, 3))])
def test_what_is_no_list_of_frames(value):
    assert not is_frame_list(value)


def test_numbers_beyond_all_floats_are_refused() -> None:
    for number in (10**400, -(10**400), 10**5000):
        with pytest.raises(MediaReferenceError, match="'start' must be a number of seconds"):
            split_clip({"path": "a.mp4", "start": number})
