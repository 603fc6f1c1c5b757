from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdatasets import auto_plugin
from mmdatasets.planning.inputs import join_outputs, video_metadata
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.types import FramePlan, VideoShape


def shape(indices: list[int], times: list[float] | None, fps: float | None) -> VideoShape:
    plan = FramePlan(tuple(indices), None if times is None else tuple(times))
    return VideoShape(64, 48, plan, 100, fps, None if fps is None else 100 / fps)


@given(st.sets(st.integers(0, 99), min_size=1), st.floats(1, 120), st.floats(-0.2, 0.2))
def test_indices_of_steady_rates_are_integers(chosen: set[int], fps: float, off: float) -> None:
    """Containers round times, by up to a fraction of a frame."""
    indices = sorted(chosen)
    made = video_metadata(shape(indices, [max(0.0, (index + off) / fps) for index in indices], fps))
    assert made.frames_indices == indices
    assert all(type(index) is int for index in made.frames_indices)
    assert (made.total_num_frames, made.fps, made.width, made.height) == (100, fps, 64, 48)


@given(st.lists(st.floats(0.01, 3.0), min_size=2, max_size=20))
def test_indices_of_varying_rates_give_the_frames_own_times(shown: list[float]) -> None:
    times = np.concatenate([[0.0], np.cumsum(shown)[:-1]]).tolist()
    fps = len(shown) / sum(shown)
    made = video_metadata(shape(list(range(len(times))), times, fps))
    for index, time in zip(made.frames_indices, times, strict=True):
        assert abs(index / fps - time) <= 0.25 / fps + 1e-9


def test_frames_without_times_keep_their_indices() -> None:
    assert video_metadata(shape([0, 3], None, None)).frames_indices == [0, 3]


def test_each_call_gets_metadata_of_its_own() -> None:
    one = shape([0, 3], None, None)
    video_metadata(one).frames_indices.append(4)
    assert video_metadata(one).frames_indices == [0, 3]


def test_qwen3_vl_writes_the_sources_own_seconds(tmp_path: Path) -> None:
    times = [0.0, 0.5, 1.0, 1.5, 6.0, 6.5, 9.0, 9.5]
    path = write_video(tmp_path / "a.mkv", VideoSpec(num_frames=8, times_s=times, format="matroska"))
    plugin = auto_plugin(build_processor("qwen3_vl"))
    video = {"path": str(path), "indices": list(range(8))}
    chat = [{"role": "user", "content": "<video>What?"}]
    made = plugin.transform({"messages": [chat], "videos": [[video]]})
    text = plugin.processor.tokenizer.decode(made["input_ids"][0])
    # It writes the middle of each pair of frames, rounded to a tenth.
    middles = [(first + second) / 2 for first, second in zip(times[::2], times[1::2], strict=True)]
    written = [float(piece.split(" seconds>")[0]) for piece in text.split("<")[1:] if " seconds>" in piece]
    assert written == pytest.approx(middles, abs=0.051)


# --------------------------------------------------------------------------------------------------- join_outputs


def test_outputs_of_equal_shapes_are_joined_along_the_first_axis() -> None:
    parts = [{"pixels": torch.full((1, 4, 3), value), "names": [value]} for value in (1.0, 2.0)]
    joined = join_outputs(parts, frames_are_independent=False)
    assert joined["pixels"].shape == (2, 4, 3)
    assert joined["names"] == [1.0, 2.0]


def test_frames_of_different_counts_are_joined_where_they_are_independent() -> None:
    parts = [{"pixels": torch.full((1, count, 3), float(count))} for count in (4, 6)]
    joined = join_outputs(parts, frames_are_independent=True)
    assert joined["pixels"].shape == (1, 10, 3)
    assert joined["pixels"][0, :, 0].tolist() == [4.0] * 4 + [6.0] * 6
    with pytest.raises(ValueError, match="videos of different frame counts make pixels that do not fit in one tensor"):
        join_outputs(parts, frames_are_independent=False)
