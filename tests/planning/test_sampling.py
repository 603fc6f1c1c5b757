from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.video_utils import VideoMetadata

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MediaDecodeError, MediaError, MediaProcessorError, MediaReferenceError
from mmdatasets.planning.sampling import Clip, check_indices, sample, spread
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.types import VideoInfo
from tests.media_oracle import full_decode


def by_nobody(*args: object) -> None:
    raise AssertionError("the processor is not asked")


def steady(num_frames: int, fps: float = 8.0) -> VideoInfo:
    return VideoInfo(64, 64, num_frames, np.arange(num_frames) / fps, fps, num_frames / fps)


@st.composite
def videos(draw: st.DrawFn) -> VideoInfo:
    """Videos whose frames are shown for varying times."""
    shown = draw(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60))
    ends = np.cumsum(shown)
    times = np.concatenate([[0.0], ends[:-1]])
    return VideoInfo(64, 64, len(shown), times, len(shown) / float(ends[-1]), float(ends[-1]))


def on_display(info: VideoInfo, time_s: float) -> int:
    """The frame that a viewer sees at a time: the last one that was shown by then."""
    assert info.timestamps_s is not None
    return max(index for index, shown in enumerate(info.timestamps_s) if shown <= time_s + 1e-6)


# ---------------------------------------------------------------------------------------------------- our policies


@given(st.integers(1, 500), st.integers(1, 500))
def test_spread_is_even_and_keeps_the_ends(count: int, wanted: int) -> None:
    positions = spread(count, wanted)
    assert len(positions) == min(count, wanted)
    assert positions[0] == 0
    steps = np.diff(positions)
    assert (steps >= 1).all()
    if wanted > 1:
        assert positions[-1] == count - 1
        assert not len(steps) or steps.max() - steps.min() <= 1


@given(videos(), st.floats(0.1, 30))
def test_fps_takes_what_is_on_display_at_every_tick(info: VideoInfo, fps: float) -> None:
    options = MediaOptions(video_sampling="fps", video_fps=fps)
    taken = sample(info, Clip(), options, by_nobody).frames
    assert info.duration_s is not None
    ticks = [tick / fps for tick in range(max(1, int(info.duration_s * fps + 1e-6)))]
    assert list(taken.indices) == [on_display(info, tick) for tick in ticks]
    assert taken.timestamps_s == tuple(info.timestamps_s[list(taken.indices)].tolist())


@given(videos(), st.floats(0.1, 30), st.integers(1, 20))
def test_a_bound_on_frames_spreads_them_over_the_whole_clip(info: VideoInfo, fps: float, most: int) -> None:
    options = MediaOptions(video_sampling="fps", video_fps=fps, video_max_frames=most)
    unbounded = sample(info, Clip(), MediaOptions(video_sampling="fps", video_fps=fps), by_nobody).frames.indices
    taken = sample(info, Clip(), options, by_nobody).frames.indices
    assert len(taken) == min(len(unbounded), most)
    assert taken[0] == unbounded[0]
    if most > 1:
        assert taken[-1] == unbounded[-1]


@given(videos(), st.sampled_from(["fps", "uniform", "all"]), st.integers(1, 20), st.integers(1, 20), st.data())
def test_indices_are_in_order_in_range_and_within_bounds(info, policy, low, high, data) -> None:
    assume(low <= high)
    start = data.draw(st.floats(0, info.duration_s * 0.9))
    end = data.draw(st.none() | st.floats(start + 0.001, info.duration_s + 1))
    options = MediaOptions(
        video_sampling=policy,
        video_fps=data.draw(st.floats(0.1, 30)) if policy == "fps" else None,
        video_num_frames=data.draw(st.integers(1, 80)) if policy == "uniform" else None,
        video_min_frames=low,
        video_max_frames=high,
    )
    made = sample(info, Clip(start, end), options, by_nobody)
    first = on_display(info, start) if start else 0
    shown = [index for index, time in enumerate(info.timestamps_s) if index >= first and (end is None or time < end)]
    indices = made.frames.indices
    assert abs(made.num_source_frames - len(shown)) <= 1  # on_display is lenient by a microsecond
    assert min(shown) - 1 <= indices[0]
    assert indices[-1] <= max(shown)
    assert list(indices) == sorted(indices)
    assert min(low, made.num_source_frames) <= len(indices) <= high
    assert made.duration_s == pytest.approx(min(end or np.inf, info.duration_s) - start)


@given(st.integers(1, 60), st.integers(1, 80))
def test_uniform_takes_as_many_as_there_are(count: int, wanted: int) -> None:
    options = MediaOptions(video_sampling="uniform", video_num_frames=wanted)
    taken = sample(steady(count), Clip(), options, by_nobody).frames.indices
    assert list(taken) == spread(count, wanted).tolist()


def test_a_varying_rate_is_not_divided_by_its_average() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.3, 3.0, 3.1])
    info = VideoInfo(64, 64, 6, times, 6 / 4.0, 4.0)
    taken = sample(info, Clip(), MediaOptions(video_sampling="fps", video_fps=1.0), by_nobody).frames.indices
    assert taken == (0, 3, 3, 4)


def test_explicit_indices_are_taken_as_they_are() -> None:
    made = sample(steady(10), Clip(indices=(0, 3, 3, 9)), MediaOptions(video_max_frames=2), by_nobody)
    assert made.frames.indices == (0, 3, 3, 9)
    assert made.frames.timestamps_s == (0.0, 0.375, 0.375, 1.125)


def test_what_cannot_be_sampled_is_explained() -> None:
    listed = VideoInfo(64, 64, 4, is_frame_list=True)
    with pytest.raises(MediaError, match="needs the rate of the frames: give 'fps'"):
        sample(listed, Clip(), MediaOptions(video_sampling="fps", video_fps=1.0), by_nobody)
    with pytest.raises(MediaError, match="its frames have no rate: give 'fps'"):
        sample(listed, Clip(1.0), MediaOptions(), by_nobody)
    with pytest.raises(MediaDecodeError, match=r"from 9\.0 s on is wanted of a video of 0\.500 s"):
        sample(steady(4), Clip(9.0), MediaOptions(), by_nobody)
    for wrong in ([-1], [4], []):
        with pytest.raises(MediaDecodeError, match="'indices' must name frames from 0 to 3"):
            sample(steady(4), Clip(indices=tuple(wrong)), MediaOptions(), by_nobody)
    for wrong in ("12", 3, [1.0], [True]):
        with pytest.raises(MediaReferenceError, match="'indices' must be a list of integers"):
            check_indices(wrong)
    assert check_indices(np.array([1, 2])) == (1, 2)


def test_lists_of_frames_count_as_sampled() -> None:
    listed = VideoInfo(64, 64, 4, is_frame_list=True)
    assert sample(listed, Clip(), MediaOptions(), by_nobody).frames.indices == (0, 1, 2, 3)
    assert sample(listed, Clip(), MediaOptions(video_max_frames=2), by_nobody).frames.indices == (0, 3)


# ----------------------------------------------------------------------------------------- the processor's policy

FAMILIES = ["qwen2_vl", "qwen3_vl", "glm4v", "gemma4", "internvl", "smolvlm", "minicpmv4_6", "ernie4_5_vl"]
# Settings that the processor itself refuses to sample by.
REFUSED = {("gemma4", "short"): "exceeds", ("smolvlm", "fps"): "TypeError", ("smolvlm", "num_frames"): "TypeError",
           ("ernie4_5_vl", "num_frames"): "must be 16 <= x"}  # fmt: skip
WANTED: dict[str, dict[str, object]] = {
    "default": {},
    "fps": {"fps": 2.0},
    "num_frames": {"num_frames": 8},
    "short": {},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A video of five seconds, and one of less than one."""
    folder = tmp_path_factory.mktemp("sampling")
    rate = Fraction(8)
    return {
        "long": write_video(folder / "long.mp4", VideoSpec(num_frames=41, rate=rate)),
        "short": write_video(folder / "short.mp4", VideoSpec(num_frames=6, rate=rate)),
    }


def own_sampling(processor, path: Path, wanted: dict[str, object]) -> tuple[list[int], dict[str, object]]:
    """What the processor's own video processor takes of the fully decoded video, and makes of it."""
    video_processor = processor.video_processor
    frames = full_decode(path)
    metadata = VideoMetadata(total_num_frames=len(frames), fps=8.0, duration=len(frames) / 8.0, width=112, height=64)
    settings: dict[str, object] = {"do_sample_frames": True} if wanted else {}
    settings |= wanted
    if "num_frames" in wanted:
        settings["fps"] = None
    elif "fps" in wanted:
        settings["num_frames"] = None
    merged = auto_plugin(processor).engine.runner.kwargs("video")
    known = {**{name: value for name, value in merged.items() if value is not None}, **settings}
    made = dict(
        video_processor(
            videos=[frames], video_metadata=[metadata], **{**known, "return_metadata": True, "return_tensors": "pt"}
        )
    )
    taken = made.pop("video_metadata")[0].frames_indices
    return (list(range(len(frames))) if taken is None else [int(index) for index in taken]), made


@pytest.mark.parametrize("case", WANTED)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_processors_policy_is_its_own(name: str, case: str, files) -> None:
    processor, wanted = build_processor(name), WANTED[case]
    path = files["short" if case == "short" else "long"]
    given = {f"video_{key}": value for key, value in wanted.items()}
    plugin = auto_plugin(processor, options=MediaOptions(**given))
    chat = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "This."}]
    if (name, case) in REFUSED:
        with pytest.raises((ValueError, TypeError)) as caught:
            own_sampling(processor, path, wanted)
        assert REFUSED[name, case] in f"{caught.type.__name__}: {caught.value}"
        with pytest.raises(MediaProcessorError, match=r"MediaOptions\(video_sampling='uniform', video_num_frames="):
            plugin.transform({"messages": [chat], "videos": [[str(path)]]})
        return
    indices, theirs = own_sampling(processor, path, wanted)
    made = plugin.transform({"messages": [chat], "videos": [[str(path)]]})
    row = {column: values[0] for column, values in made.items()}
    assert row["media_info"][0]["frame_indices"] == indices
    batch = plugin.collator()([row])
    for key in ("pixel_values_videos", "video_grid_thw"):
        if key in theirs and key in batch:
            assert torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(theirs[key])), key


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "smolvlm"])
def test_processors_without_a_policy_take_all_frames(name: str, files) -> None:
    assert not build_processor(name).video_processor.do_sample_frames
    indices, _ = own_sampling(build_processor(name), files["short"], {})
    assert indices == list(range(6))
