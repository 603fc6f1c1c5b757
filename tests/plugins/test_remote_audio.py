"""Audio of families whose processor is code of its checkpoint: equal to a stand-in of the published interface."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets.fingerprint import Hasher
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaError, MediaLimitError, MediaProcessorError, MMDatasetsError
from mmdatasets.options import MediaOptions
from mmdatasets.testing.standins import build_standin
from mmdatasets.testing.standins.minicpmv import MiniCPMOProcessor
from mmdatasets.types import AudioShape, MediaInput
from tests.plugins.minicpm_oracle import TAGS, assert_equals_published, published_row
from tests.plugins.remote_cases import RATE, Audio, Image, Turn, Video, assert_same, make_row, map_rows

SCENARIOS: dict[str, list[list[Turn]]] = {
    "one": [[[Audio(2.3), "What is said?"], ["Nothing — 中文."]]],
    "two": [[["Compare ", Audio(0.7), " and ", Audio(1.0)], ["They differ."]]],
    "audio, image": [[[Audio(1.5), Image(300, 200), "Match?"], ["Yes."]]],
    "image, audio": [[[Image(520, 610), "\n", Audio(1.5), "Match?"], ["No."]]],
    "audio in turns": [[[Audio(0.5), "One?"], ["1"], ["And ", Audio(3.21), "?"], ["2"]]],
    "longer than a window": [[[Audio(65.0), "What is said?"], ["Much."]]],
    "a window and a little": [[[Audio(30.01), Audio(29.99), "Which is longer?"], ["The first."]]],
    "mixed": [
        [["No media"], ["Right."]],
        [[Audio(1.0), "First?"], ["One."]],
        [[Image(333, 222), "What?"], ["A picture, the longest text of all the rows here"]],
        [[Audio(2.0), Image(222, 333), Audio(0.04), "All"], ["Three."]],
    ],
    "with a video": [
        [[Audio(1.2), Video(9), "Fits?"], ["No."]],
        [[Image(600, 500), Audio(0.3), "Hm"], ["Hm."]],
    ],
    "text only": [[["Hello"], ["Hi."]], [["How are you, on this fine day?"], ["Well."]]],
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_batches_equal_the_published_call(scenario: str, side: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("minicpm_o"))
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS[scenario]]
    mapped = map_rows(plugin, rows)
    batch = plugin.collator(padding_side=side, pad_to_multiple_of=8)(list(mapped))
    assert_equals_published(build_standin("minicpm_o"), batch, rows)


def test_a_batch_equals_the_published_call_on_the_batch(tmp_path: Path) -> None:
    processor = build_standin("minicpm_o")
    plugin = auto_plugin(processor)
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS["two"] + SCENARIOS["one"] + SCENARIOS["text only"]]
    data = plugin.collator(padding_side="left")(list(map_rows(plugin, rows)))["data"]
    tagged = []
    for row in rows:
        messages = [{**m, "content": m["content"].replace("<audio>", TAGS["audio"])} for m in row.messages]
        tagged.append(processor.tokenizer.apply_chat_template(messages, tokenize=False))
    audios = [[soundfile.read(path, dtype="float32")[0] for path in row.of("audio")] for row in rows]
    expected = processor(tagged, [[] for _ in rows], audios, chunk_input=True)
    assert torch.equal(data["attention_mask"].bool(), expected["attention_mask"])
    mask = expected["attention_mask"]
    assert torch.equal(data["input_ids"][mask], expected["input_ids"][mask].to(torch.int64))
    for name in set(expected) - {"input_ids", "attention_mask"}:
        assert_same(data[name], expected[name], name)


@pytest.mark.parametrize("scenario", ["audio in turns", "mixed", "with a video"])
def test_labels_are_the_answers_and_never_media(scenario: str, tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("minicpm_o"))
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS[scenario]]
    for mapped, row in zip(map_rows(plugin, rows), rows, strict=True):
        labels = np.asarray(mapped["labels"])
        for info in mapped["media_info"]:
            assert (labels[info["start"] : info["end"]] == -100).all()
        answers = [message["content"] for message in row.messages if message["role"] == "assistant"]
        assert plugin.engine.tokenizer.decode(labels[labels != -100]) == "".join(
            f"{answer}<|im_end|>\n" for answer in answers
        )


def test_bounds_hold_exactly_the_audio_tokens(tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("minicpm_o"))
    row = make_row([["a", Audio(2.3), "b"], ["c"]], tmp_path)
    data = plugin.collator()(list(map_rows(plugin, [row])))["data"]
    assert [end - start for start, end in data["audio_bounds"][0].tolist()] == [25, 25, 7]
    tokenizer = plugin.engine.tokenizer
    for start, end in data["audio_bounds"][0].tolist():
        ids = data["input_ids"][0][start - 1 : end + 1].tolist()
        assert ids == [tokenizer.audio_start_id, *[tokenizer.unk_token_id] * (end - start), tokenizer.audio_end_id]


def features_of(frames: int) -> int:
    """Whisper's second convolution halves the frames; a pooling over two halves them again, without a rest."""
    return torch.nn.functional.avg_pool1d(
        torch.nn.functional.conv1d(torch.zeros(1, 1, frames), torch.zeros(1, 1, 3), stride=2, padding=1), 2
    ).shape[2]


PLUGIN = auto_plugin(build_standin("minicpm_o"))


@settings(max_examples=15)
@given(num_samples=st.integers(321, 40 * RATE))
@example(num_samples=321)
@example(num_samples=30 * RATE)
@example(num_samples=30 * RATE + 1)
@example(num_samples=60 * RATE + 640)
def test_the_plan_is_what_the_encoder_makes(num_samples: int) -> None:
    shape = AudioShape(num_samples)
    item = MediaInput(shape, np.zeros(num_samples, dtype=np.float32))
    outputs, expansions = PLUGIN.process_media(PLUGIN.engine, [[item]])
    planned = PLUGIN.engine.media.expand_one(shape)
    assert planned == expansions[0]
    windows = outputs["audio_feature_lens"][0].tolist()
    assert planned.num_media_tokens == sum(features_of(length) for length in windows if length > 2)


def test_long_audio_is_taken_whole_or_refused(tmp_path: Path) -> None:
    row = make_row(SCENARIOS["longer than a window"][0], tmp_path)
    (mapped,) = map_rows(PLUGIN, [row])
    assert mapped["media_info"][0]["num_tokens"] == 65 * 25
    strict = auto_plugin(build_standin("minicpm_o"), options=MediaOptions(audio_max_duration_s=60))
    with pytest.raises(MediaLimitError, match=r"65\.00 s of audio, but 60\.00 s is the longest"):
        strict.transform({"messages": [row.messages], "audios": [row.of("audio")]})


def test_audio_too_short_for_a_feature_names_it(tmp_path: Path) -> None:
    row = make_row([[Audio(1.0), Audio(0.01), "?"], ["!"]], tmp_path)
    with pytest.raises(MediaProcessorError, match=r"column 'audios', index 1 .*no feature of 160 samples"):
        PLUGIN.transform({"messages": [row.messages], "audios": [row.of("audio")]})


class EarlierProcessor(MiniCPMOProcessor):
    """As in the first revisions: what audio becomes in the text only comes with its features."""

    @property
    def get_audio_placeholder(self) -> object:  # type: ignore[override]
        raise AttributeError("get_audio_placeholder")

    def audio_feature_extract(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        whole = MiniCPMOProcessor(self.image_processor, self.feature_extractor, self.tokenizer)
        return whole.audio_feature_extract(*args, **kwargs)


def test_revisions_that_only_extract_plan_the_same() -> None:
    now = build_standin("minicpm_o")
    earlier = EarlierProcessor(now.image_processor, now.feature_extractor, now.tokenizer)
    engine = get_mm_plugin("minicpmv", processor=earlier).engine
    for count in (1000, 16000, 40000):
        assert engine.media.expand_one(AudioShape(count)) == PLUGIN.engine.media.expand_one(AudioShape(count))


def test_minicpm_v_takes_no_audio(tmp_path: Path) -> None:
    row = make_row([[Audio(1.0), "?"], ["!"]], tmp_path)
    with pytest.raises(MediaError, match="takes no audio"):
        auto_plugin(build_standin("minicpm_v")).transform({"messages": [row.messages], "audios": [row.of("audio")]})


def test_a_row_cut_through_audio_is_refused(tmp_path: Path) -> None:
    (mapped,) = map_rows(PLUGIN, [make_row([["a", Audio(1.0)], ["b"]], tmp_path)])
    end = mapped["media_info"][0]["end"] - 1
    cut = {**mapped, "input_ids": mapped["input_ids"][:end], "labels": mapped["labels"][:end]}
    with pytest.raises(MMDatasetsError, match="do not cut input_ids"):
        PLUGIN.collator()([cut])


def test_the_stages_one_by_one_give_the_same(tmp_path: Path) -> None:
    row = make_row(SCENARIOS["mixed"][3], tmp_path)
    processor = build_standin("minicpm_o")
    expected = published_row(processor, row)
    messages = PLUGIN.process_messages(row.messages, row.of("image"), [], row.of("audio"), None)
    ids = processor.tokenizer.encode(processor.tokenizer.apply_chat_template(messages, tokenize=False))
    assert ids == expected["input_ids"][0].tolist()
    inputs = PLUGIN.get_mm_inputs(row.of("image"), [], row.of("audio"), [1], [0], [2], [ids], None)
    assert set(inputs) == set(expected) - {"input_ids", "attention_mask"}
    for name in inputs:
        assert_same(inputs[name], expected[name], name)


def test_the_plugin_pickles_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    plugin = auto_plugin(build_standin("minicpm_o"))
    rows = [make_row(turns, tmp_path) for turns in SCENARIOS["mixed"]]
    before = Hasher.hash(plugin)
    mapped = map_rows(plugin, rows)
    batch = plugin.collator()(list(mapped))
    assert Hasher.hash(plugin) == before
    copied = pickle.loads(pickle.dumps(plugin))
    assert map_rows(copied, rows)["input_ids"] == mapped["input_ids"]
    again = copied.collator()(list(mapped))
    for name in batch["data"]:
        assert_same(again["data"][name], batch["data"][name], name)


def test_a_batch_can_get_blank_audio(tmp_path: Path) -> None:
    rows = map_rows(PLUGIN, [make_row(turns, tmp_path) for turns in SCENARIOS["text only"]])
    batch = PLUGIN.collator(ensure_media=True)(list(rows))
    assert len(batch["data"]["audio_features"]) == 1
    assert len(batch["data"]["audio_bounds"][0]) == 1
    media = batch["input_ids"] == PLUGIN.engine.tokenizer.unk_token_id
    assert media.any()
    assert not batch["attention_mask"][media].any()
