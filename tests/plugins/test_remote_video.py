"""Videos of families whose processor is code of its checkpoint: equal to a stand-in of the published interface."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.video_utils import VideoMetadata

from mmdatasets import auto_plugin
from mmdatasets.errors import MediaError, MediaProcessorError
from mmdatasets.options import MediaOptions
from mmdatasets.planning.inputs import blank_input
from mmdatasets.testing.audio import encode_video_with_audio, make_audio
from mmdatasets.testing.standins import build_standin
from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.types import FramePlan, ImageInfo, VideoShape
from tests.plugins.minicpm_oracle import assert_equals_published, published_row
from tests.plugins.remote_cases import Image, Row, Turn, Video, assert_same, make_row, map_rows

SCENARIOS: dict[str, list[list[Turn]]] = {
    "one video": [[[Video(10), "What happens?"], ["Nothing — 中文."]]],
    "two videos": [[[Video(5), " or ", Video(9, 640, 480), "?"], ["The first."]]],
    "image, video": [[[Image(300, 200), "\n", Video(9), "Same?"], ["No."]]],
    "video, image": [[[Video(9, 480, 560), Image(1344, 896), "Same?"], ["No."]]],
    "one frame": [[[Video(1), "What?"], ["A flash."]]],
    "several turns": [[["A ", Image(60, 60), "?"], ["1"], [Video(6), "\nAnd?"], ["2"], [Image(500, 40)], ["3"]]],
    "mixed": [
        [["No media"], ["Right."]],
        [[Video(7), "First?"], ["One."]],
        [[Image(700, 500), Image(40, 40), "What?"], ["Pictures, the longest text of all the rows here"]],
        [[Image(700, 500), Video(4), Image(30, 20)], ["Three."]],
    ],
}
MINICPM = ["minicpm_o", "minicpm_v"]
ALL = [*MINICPM, "moss_vl"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", MINICPM)
def test_minicpm_batches_equal_the_published_calls(name: str, scenario: str, side: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin(name))
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS[scenario]]
    batch = plugin.collator(padding_side=side, pad_to_multiple_of=8)(list(map_rows(plugin, rows)))
    assert_equals_published(build_standin(name), batch, rows)


PLUGINS = {name: auto_plugin(build_standin(name)) for name in MINICPM}


def test_minicpm_frames_have_no_number_and_two_slices_at_most(tmp_path: Path) -> None:
    plugin = PLUGINS["minicpm_o"]
    mapped = map_rows(plugin, [make_row([[Video(9, 1280, 720), Image(1344, 896)], ["x"]], tmp_path)])
    text = plugin.engine.tokenizer.decode(mapped[0]["input_ids"])
    assert "<image_id>" not in text
    slices = [part.count("<slice>") for part in text.split("<image>")[1:]]
    assert slices == [2, 2, 2, 2]
    alone = map_rows(plugin, [make_row([[Image(1344, 896)], ["x"]], tmp_path)])
    text = plugin.engine.tokenizer.decode(alone[0]["input_ids"])
    assert "<image_id>0</image_id>" in text
    assert text.count("<slice>") == 6


@settings(max_examples=20)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    frames=st.integers(1, 5),
    side=st.integers(1, 900),
    video_first=st.booleans(),
)
def test_minicpm_plans_what_it_makes(width: int, height: int, frames: int, side: int, video_first: bool) -> None:
    plugin = PLUGINS["minicpm_v"]
    video = VideoShape(width, height, FramePlan(tuple(range(frames))), frames, 1.0, float(frames))
    shapes = [video, ImageInfo(side, 300)] if video_first else [ImageInfo(side, 300), video]
    outputs, expansions = plugin.process_media(plugin.engine, [[blank_input(shape, "cpu") for shape in shapes]])
    assert plugin.plan_row(plugin.engine.runner, shapes) == expansions
    assert len(outputs["pixel_values"][0]) == sum(len(one.runs) for one in expansions)
    assert expansions[shapes.index(video)] == plugin.engine.media.expand_one(video)


@pytest.mark.parametrize(
    ("count", "fps", "wanted", "expected"),
    [
        (100, 25.0, {}, [0, 25, 50, 75]),
        (90, 29.97, {}, [0, 30, 60]),
        (3, 0.4, {}, [0, 1, 2]),
        (1, 30.0, {}, [0]),
        (128, 1.0, {}, list(range(1, 128, 2))),
        (100, 25.0, {"fps": 5.0}, list(range(0, 100, 5))),
        (100, 25.0, {"num_frames": 4}, [12, 37, 62, 87]),
        (3, 25.0, {"num_frames": 8}, [0, 1, 2]),
        (4, None, {}, [0, 1, 2, 3]),
    ],
)
def test_minicpm_samples_as_the_model_card(
    count: int, fps: float | None, wanted: dict[str, object], expected: list[int]
) -> None:
    plugin = PLUGINS["minicpm_v"]
    metadata = VideoMetadata(total_num_frames=count, fps=fps, duration=None)
    assert plugin.sample_frames(plugin.engine.runner, metadata, wanted) == expected


def test_minicpm_token_ids_alone_do_not_tell_frames_from_images(tmp_path: Path) -> None:
    plugin = PLUGINS["minicpm_v"]
    row = make_row(SCENARIOS["image, video"][0], tmp_path)
    ids = published_row(plugin.processor, row)["input_ids"][0].tolist()
    with pytest.raises(MediaError, match=r"row 0 of the batch.* do not tell which comes first"):
        plugin.get_mm_inputs(row.of("image"), row.of("video"), [], [1], [1], [0], [ids], None)


@pytest.mark.parametrize("name", ALL)
def test_a_videos_sound_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    path.write_bytes(encode_video_with_audio(make_audio(48000, 48000), 48000))
    plugin = auto_plugin(build_standin(name), options=MediaOptions(use_audio_in_video=True))
    chat = [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": "x"}]
    with pytest.raises(MediaProcessorError, match=r"column 'videos', index 0 .*use_audio_in_video=False"):
        plugin.transform({"messages": [chat], "videos": [[str(path)]]})


# ------------------------------------------------------------------------------------------------------- MOSS-VL


def published_batch(processor: StandInProcessor, rows: Sequence[Row]) -> Mapping[str, Any]:
    """MOSS-VL's own call on the rendered texts, the opened images and the videos' files."""
    pattern = re.compile("<(image|video)>")
    chats = [
        [{**message, "content": pattern.sub(r"<|\1|>", message["content"])} for message in row.messages]
        for row in rows
    ]
    texts = [processor.apply_chat_template(chat, tokenize=False) for chat in chats]
    images = [PIL.Image.open(path).convert("RGB") for row in rows for path in row.of("image")]
    videos = [path for row in rows for path in row.of("video")]
    return processor(text=texts, images=images or None, videos=videos or None, padding=True, return_tensors="pt")


MOSS_SCENARIOS = {name: rows for name, rows in SCENARIOS.items() if name != "video, image"} | {
    "video, image": [[[Video(9, 480, 560), Image(400, 300), "Same?"], ["No."]]],
    "long": [[[Video(100, rate=5), "?"], ["It is cut to the most frames."]]],
    "uneven rate": [[[Video(23, rate=7), "?"], ["Times are rounded."]]],
    "no media": [[["Hello"], ["Hi."]], [["How are you?"], ["Well."]]],
}


@pytest.mark.parametrize("scenario", MOSS_SCENARIOS)
def test_moss_batches_equal_the_published_call(scenario: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("moss_vl"))
    rows = [make_row(turns, tmp_path) for turns in MOSS_SCENARIOS[scenario]]
    ours = plugin.collator(padding_side="right")(list(map_rows(plugin, rows)))
    theirs = published_batch(build_standin("moss_vl"), rows)
    assert set(ours) - {"labels"} == set(theirs)
    for name in theirs:
        assert_same(ours[name], theirs[name], name)


@pytest.mark.parametrize("scenario", ["two videos", "image, video", "video, image", "several turns"])
def test_moss_stages_one_by_one_give_the_same(scenario: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("moss_vl"))
    row = make_row(MOSS_SCENARIOS[scenario][0], tmp_path)
    expected = published_batch(build_standin("moss_vl"), [row])
    images, videos = row.of("image"), row.of("video")
    messages = plugin.process_messages(row.messages, images, videos, [], None)
    ids = plugin.engine.tokenizer.encode(plugin.processor.apply_chat_template(messages, tokenize=False))
    assert ids == expected["input_ids"][0].tolist()
    inputs = plugin.get_mm_inputs(images, videos, [], [len(images)], [len(videos)], [0], [ids], None)
    assert set(inputs) == set(expected) - {"input_ids", "attention_mask"}
    for name in inputs:
        assert_same(inputs[name], expected[name], name)


def test_moss_text_has_the_time_of_each_frame(tmp_path: Path) -> None:
    (mapped,) = map_rows(MOSS, [make_row([["a", Video(12), "b"], ["c"]], tmp_path)])
    span = mapped["media_info"][0]
    text = MOSS.engine.tokenizer.decode(mapped["input_ids"][span["start"] : span["end"]])
    # Twelve frames at four a second last three seconds: three frames from the first to the last.
    frames = "".join(f"<|time_start|>{time} seconds<|time_end|><|image_pad|>" for time in ("0.0", "1.2", "2.8"))
    assert text == f"<|vision_start|>{frames}<|vision_end|>"


MOSS = auto_plugin(build_standin("moss_vl"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_moss_tokens_see_the_frames_before_them(side: str, tmp_path: Path) -> None:
    rows = map_rows(MOSS, [make_row([["a", Image(60, 60), "b", Video(12), "c"], ["d"]], tmp_path)])
    rows = [*rows, *map_rows(MOSS, [make_row([["e"], ["f"]], tmp_path)])]
    batch = MOSS.collator(padding_side=side, pad_to_multiple_of=8)(rows)
    hidden = batch["cross_attention_mask"][:, 0]
    places = np.flatnonzero(batch["input_ids"][0] == MOSS.processor.image_token_id)
    assert hidden.shape[2] == len(places) == 4
    for index, place in enumerate(places):
        real = batch["attention_mask"][0].bool()
        assert hidden[0, :place, index].all()
        assert not (hidden[0, place:, index] & real[place:]).any()
    assert hidden[1].all()
    assert batch["media_nums_per_sample"] == [2, 1]


def test_moss_frames_of_a_part_keep_their_own_times(tmp_path: Path) -> None:
    row = make_row([[Video(40)], ["x"]], tmp_path)
    part = {"path": row.of("video")[0], "start": 5.0, "end": 7.0}
    messages = MOSS.process_messages(row.messages, [], [part], [], None)
    times = re.findall(r"<\|time_start\|>([0-9.]+) seconds", messages[0]["content"])
    assert times == ["5.0", "6.8"]


def test_moss_takes_frames_without_a_rate_at_its_own(tmp_path: Path) -> None:
    images = [str(make_row([[Image(64, 64 + index)], ["x"]], tmp_path).paths[0]) for index in (0, 0, 0)]
    chat = [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": "x"}]
    plugin = auto_plugin(build_standin("moss_vl"), options=MediaOptions(video_sampling="all"))
    messages = plugin.process_messages(chat, [], [images], [], None)
    assert re.findall(r"([0-9.]+) seconds", messages[0]["content"]) == ["0.0", "0.0", "0.1"]


@settings(max_examples=25)
@given(
    width=st.integers(32, 700),
    height=st.integers(32, 700),
    indices=st.lists(st.integers(0, 400), min_size=1, max_size=6, unique=True).map(sorted),
    fps=st.sampled_from([0.5, 23.976, 25.0, 29.97, None]),
)
def test_moss_plans_what_it_makes(width: int, height: int, indices: list[int], fps: float | None) -> None:
    shape = VideoShape(width, height, FramePlan(tuple(indices)), 401, fps, None if fps is None else 401 / fps)
    outputs, expansions = MOSS.process_media(MOSS.engine, [[blank_input(shape, "cpu")]])
    assert MOSS.plan_item(MOSS.engine.runner, shape) == expansions[0]
    assert outputs["grid_thw"][0, 0] == len(indices) == expansions[0].num_media_tokens
    assert len(outputs["pixel_values"]) == outputs["grid_thw"].prod()
    times = re.findall(r"([0-9.]+) seconds", expansions[0].text)
    assert times == [f"{index / (fps or 24):.1f}" for index in indices]


def test_moss_refuses_frames_too_small_and_names_them(tmp_path: Path) -> None:
    row = make_row([[Video(5), Video(5, 64, 16)], ["x"]], tmp_path)
    with pytest.raises(MediaProcessorError, match=r"column 'videos', index 1 .*too small"):
        MOSS.transform({"messages": [row.messages], "videos": [row.of("video")]})


@pytest.mark.parametrize(("fps", "count"), [(None, 10), (2.0, 12), (0.2, 2)])
def test_moss_samples_as_its_video_processor(fps: float | None, count: int, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("moss_vl"), options=MediaOptions(video_fps=fps))
    row = make_row([[Video(40)], ["x"]], tmp_path)
    (mapped,) = map_rows(plugin, [row])
    metadata = VideoMetadata(total_num_frames=40, fps=4.0, duration=10.0)
    assert plugin.processor.video_processor.calculate_num_frames(metadata, fps=fps) == count
    expected = np.unique(np.linspace(0, 39, count).astype(int)).tolist()
    assert mapped["media_info"][0]["frame_indices"] == expected


# ------------------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("name", ["kimi_vl", "youtu_vl"])
def test_families_without_a_published_video_interface_refuse_videos(name: str, tmp_path: Path) -> None:
    row = make_row([[Video(5)], ["x"]], tmp_path)
    with pytest.raises(MediaError, match="takes no videos"):
        auto_plugin(build_standin(name)).transform({"messages": [row.messages], "videos": [row.of("video")]})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scenario", ["several turns", "mixed"])
def test_labels_are_the_answers_and_never_media(name: str, scenario: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin(name))
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS[scenario]]
    for mapped, row in zip(map_rows(plugin, rows), rows, strict=True):
        labels = np.asarray(mapped["labels"])
        assert [info["modality"] for info in mapped["media_info"]] == [item.modality for item in row.items]
        for info in mapped["media_info"]:
            assert (labels[info["start"] : info["end"]] == -100).all()
        answers = [message["content"] for message in row.messages if message["role"] == "assistant"]
        trained = plugin.engine.tokenizer.decode(labels[labels != -100])
        assert trained == "".join(f"{answer}<|im_end|>\n" for answer in answers)


@pytest.mark.parametrize("name", MINICPM)
@pytest.mark.parametrize("scenario", ["one video", "two videos"])
def test_the_stages_one_by_one_give_the_same(name: str, scenario: str, tmp_path: Path) -> None:
    processor = build_standin(name)
    plugin = auto_plugin(processor)
    row = make_row(SCENARIOS[scenario][0], tmp_path)
    expected = published_row(processor, row)
    videos = row.of("video")
    messages = plugin.process_messages(row.messages, [], videos, [], None)
    ids = processor.tokenizer.encode(processor.tokenizer.apply_chat_template(messages, tokenize=False))
    assert ids == expected["input_ids"][0].tolist()
    inputs = plugin.get_mm_inputs([], videos, [], [0], [len(videos)], [0], [ids], None)
    assert set(inputs) == set(expected) - {"input_ids", "attention_mask"}
    for key in inputs:
        assert_same(inputs[key], expected[key], key)


@pytest.mark.parametrize("name", ALL)
def test_the_plugin_pickles_and_keeps_its_fingerprint(name: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin(name))
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS["mixed"]]
    before = Hasher.hash(plugin)
    mapped = map_rows(plugin, rows)
    batch = plugin.collator()(list(mapped))
    assert Hasher.hash(plugin) == before
    copied = pickle.loads(pickle.dumps(plugin))
    assert map_rows(copied, rows)["input_ids"] == mapped["input_ids"]
    again = copied.collator()(list(mapped))
    assert torch.equal(batch["labels"], again["labels"])
    first, second = (one.get("data", one) for one in (batch, again))
    for key in first:
        assert_same(second[key], first[key], key)
