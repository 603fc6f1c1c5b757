"""Videos of families whose processor is code of its checkpoint: equal to a stand-in of the published interface."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
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
from mmdatasets.testing.standins import build_standin
from mmdatasets.types import FramePlan, ImageInfo, VideoShape
from tests.plugins.minicpm_oracle import assert_equals_published, published_row
from tests.plugins.remote_cases import Image, Turn, Video, assert_same, make_row, map_rows

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
    with pytest.raises(MediaError, match="row 0 of the batch.* do not tell which comes first"):
        plugin.get_mm_inputs(row.of("image"), row.of("video"), [], [1], [1], [0], [ids], None)


def test_minicpm_refuses_a_videos_sound(tmp_path: Path) -> None:
    from mmdatasets.testing.audio import encode_video_with_audio, make_audio

    path = tmp_path / "sound.mp4"
    path.write_bytes(encode_video_with_audio(make_audio(48000, 48000), 48000))
    plugin = auto_plugin(build_standin("minicpm_o"), options=MediaOptions(use_audio_in_video=True))
    chat = [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": "x"}]
    with pytest.raises(MediaProcessorError, match="column 'videos', index 0 .*use_audio_in_video=False"):
        plugin.transform({"messages": [chat], "videos": [[str(path)]]})


@pytest.mark.parametrize("name", MINICPM)
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


@pytest.mark.parametrize("name", MINICPM)
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
