"""decord and torchcodec give the frames of a full decode, or refuse the file and say why."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest

from mmdatasets.errors import MediaDecodeError, MissingExtraError
from mmdatasets.media import audio_torchcodec
from mmdatasets.media.video import decode_frames
from mmdatasets.options import MediaOptions
from mmdatasets.types import FramePlan
from tests.media.video_cases import BAD, CORPUS, GOOD, channels_last, decoded, file_of


def problem_of(backend):
    if backend == "decord":
        return "" if importlib.util.find_spec("decord") else "decord2 is not installed"
    return audio_torchcodec._find_problem()


BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(problem_of(name)), reason=problem_of(name)))
    for name in ("decord", "torchcodec")
]

# Conversion to RGB by another path than PyAV's: levels by which pixels may differ, as measured (torchcodec: FFmpeg
# 5.1). Any other file: none.
LEVELS = {
    "decord": {"h264_10_bit": 7, "h264_interlaced": 7, "vp9_odd_size": 2},
    "torchcodec": {"h264_10_bit": 7, "h264_interlaced": 7, "vp9_odd_size": 2, "hevc_10_bit": 8},
}
OPEN = "a keyframe is none to start from"
OTHER = "of other files than MP4, MOV, Matroska and WebM"
FRAMES = r"frames where there are|it gives the one at"
REFUSED = {
    "decord": {
        **dict.fromkeys(["h264_open_gop", "h264_open_gop_matroska", "h264_intra_refresh"], OPEN),
        **dict.fromkeys(["hevc", "hevc_open_gop", "hevc_open_gop_matroska", "hevc_10_bit"], OPEN),
        "hevc_temporal_layers": OPEN,
        **dict.fromkeys(["h264_trimmed", "h264_two_edits", "h264_edits_swapped"], FRAMES),
        "h264_delayed": FRAMES,
    },
    "torchcodec": {"h264_intra_refresh": FRAMES, "h264_two_edits": FRAMES},
}
CODECS = {"mpeg4": "was not tried with mpeg4"}
FORMATS = {".mp4", ".mov", ".mkv", ".webm"}


def problem_with(backend, name):
    if CORPUS[name].suffix not in FORMATS:
        return OTHER
    return CODECS.get(name) or REFUSED[backend].get(name)


def plan_of(name, indices):
    times = decoded(name).times_s
    return FramePlan(tuple(indices), None if times is None else tuple(float(times[index]) for index in indices))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", GOOD)
def test_the_frames_are_those_of_a_full_decode_or_the_file_is_refused(name, backend):
    options = MediaOptions(video_backend=backend)
    problem, pixels = problem_with(backend, name), decoded(name).pixels
    last, num_refused = len(pixels) - 1, 0
    for indices in ([0], [last], range(0, last + 1, 3), [last // 3, last // 3, last // 2, last]):
        try:
            frames = channels_last(decode_frames(file_of(name), plan_of(name, indices), options))
        except MediaDecodeError as error:
            num_refused += problem is not None and bool(re.search(problem, str(error)))
            assert num_refused, error  # noqa: PT017 - some frames of such a file may come out right
            continue
        assert problem in (None, FRAMES)
        expected = pixels[list(indices)]
        assert frames.shape == expected.shape
        assert np.abs(frames.astype(int) - expected).max() <= LEVELS[backend].get(name, 0)
    assert bool(num_refused) == (problem is not None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video_is_refused_as_with_pyav(name, backend):
    with pytest.raises(MediaDecodeError, match=CORPUS[name].problem):
        decode_frames(file_of(name), FramePlan((0,)), MediaOptions(video_backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plan_for_another_file_is_refused(backend):
    with pytest.raises(MediaDecodeError, match=r"frame 7 is planned at 0\.290000 s, but is shown at 0\.280000 s"):
        decode_frames(file_of("h264"), FramePlan((0, 7), (0.0, 0.29)), MediaOptions(video_backend=backend))


@pytest.mark.skipif(bool(problem_of("decord")), reason=problem_of("decord"))
def test_decord_alone_gives_other_frames_without_a_word():
    """What the refusals are for."""
    import io

    import decord

    reader = decord.VideoReader(io.BytesIO(file_of("hevc_open_gop")), num_threads=1)
    found = [reader.get_batch([index]).asnumpy()[0] for index in (35, 9, 22, 11)]
    expected = decoded("hevc_open_gop").pixels[[35, 9, 22, 11]]
    assert any(np.abs(frame.astype(int) - other).max() > 100 for frame, other in zip(found, expected, strict=True))


def test_a_missing_decord_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "decord" else find_spec(name))
    with pytest.raises(MissingExtraError, match=r"needs the package 'decord2': pip install 'mmdatasets\[decord\]'"):
        decode_frames(file_of("h264"), FramePlan((0,)), MediaOptions(video_backend="decord"))


@pytest.mark.skipif(not problem_of("torchcodec"), reason="torchcodec is installed, and so is FFmpeg")
def test_a_missing_torchcodec_or_ffmpeg_is_named():
    with pytest.raises(MissingExtraError, match=r"pip install 'mmdatasets\[torchcodec\]', and FFmpeg \(torchcodec"):
        decode_frames(file_of("h264"), FramePlan((0,)), MediaOptions(video_backend="torchcodec"))
