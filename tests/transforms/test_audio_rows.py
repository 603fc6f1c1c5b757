"""Audio in rows: what `map` stores of it, and the batches that come of it."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import soxr
import torch
from datasets.table import embed_table_storage

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import (
    MediaDecodeError,
    MediaError,
    MediaLimitError,
    MediaNotFoundError,
    MediaReferenceError,
    PlaceholderError,
)
from mmdatasets.testing.audio import encode_audio, make_audio, write_audio
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from tests.media_oracle import assert_same, own_call, wav_samples

RATE = 16_000


def chat(text: str = "<audio>What?") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_audio"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Three WAV files of different lengths at the model's rate."""
    folder = tmp_path_factory.mktemp("audio")
    return [write_audio(folder / f"{index}.wav", RATE, 0.7 + index, seed=index) for index in range(3)]


def mapped_by(plugin, columns, features=None, **kwargs):
    dataset = datasets.Dataset.from_dict(columns, features=features)
    return dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features), **kwargs)


def rows_of(columns) -> list[dict[str, object]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def with_audio(feature, column: str = "audios") -> datasets.Features:
    return datasets.Features({"messages": datasets.Json(), column: feature})


def texts_of(processor, chats) -> list[str]:
    """The chats as the processor's own template writes them."""
    made = []
    for messages in chats:
        own = []
        for message in messages:
            pieces: list[dict[str, str]] = []
            for index, text in enumerate(message["content"].split("<audio>")):
                pieces += [{"type": "audio"}] * bool(index) + [{"type": "text", "text": text}] * bool(text)
            own.append({**message, "content": pieces})
        made.append(processor.apply_chat_template(own))
    return made


def expected_batch(processor, chats, audio):
    rate = auto_plugin(processor).engine.runner.sampling_rate
    return own_call(processor, texts_of(processor, chats), audio=audio, audio_kwargs={"sampling_rate": rate})


def without_labels(batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


# ---------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize("first", [[], None])
def test_types_do_not_depend_on_which_rows_come_first(first, plugin, files) -> None:
    features = with_audio(datasets.List(datasets.Audio(decode=False)))
    columns = {"messages": [chat("none"), chat()], "audios": [first, [str(files[0])]]}
    mapped = mapped_by(plugin, columns, features, batch_size=1)
    assert mapped.features == plugin.features(features)
    assert mapped.features["audios"] == datasets.List(datasets.Audio(decode=False))
    assert mapped["audios"][:] == [[], [{"bytes": None, "path": str(files[0])}]]


def test_media_info_says_what_is_decoded(plugin, files) -> None:
    row = mapped_by(plugin, {"messages": [chat("<audio>, <audio>?")], "audios": [[str(files[0]), str(files[1])]]})[0]
    tokens = plugin.processor.tokenizer.convert_ids_to_tokens(row["input_ids"])
    for index, record in enumerate(row["media_info"]):
        inside = tokens[record["start"] : record["end"]]
        assert inside.count("<|AUDIO|>") == record["num_tokens"]
        known = {name: value for name, value in record.items() if value is not None}
        assert known == {
            "modality": "audio",
            "item": index,
            "start_s": 0.0,
            "num_samples": round((0.7 + index) * RATE),
            "start": record["start"],
            "end": record["end"],
            "num_tokens": record["num_tokens"],
            "materialised": False,
        }


# ---------------------------------------------------------------------------------------------------- equal batches


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe", "gemma3n", "gemma4"])
def test_a_batch_is_the_processors_own(name: str, files) -> None:
    processor = build_processor(name)
    plugin = auto_plugin(processor)
    chats = [chat("<audio> and <audio>?"), chat("<audio>")]
    mapped = mapped_by(plugin, {"messages": chats, "audios": [[str(files[0]), str(files[1])], [str(files[2])]]})
    theirs = expected_batch(processor, chats, [wav_samples(path) for path in files])
    assert_same(plugin.collator(padding_side="right")(list(mapped)), theirs)


def test_every_reference_form_gives_the_same_batch(plugin, files) -> None:
    path, data, samples = str(files[0]), files[0].read_bytes(), wav_samples(files[0])
    forms = [
        path,
        files[0],
        data,
        {"path": path, "bytes": None},
        {"path": None, "bytes": data},
        f"file://{path}",
        {"array": samples, "sampling_rate": RATE},
        {"array": torch.from_numpy(samples)[None], "sampling_rate": RATE},
        {"array": samples.tolist(), "sampling_rate": RATE, "path": None},
    ]
    theirs = expected_batch(plugin.processor, [chat()], [samples])
    for form in forms:
        rows = rows_of(plugin.transform({"messages": [chat()], "audios": [[form]]}))
        assert_same(plugin.collator(padding_side="right")(rows), theirs)


def test_other_rates_and_channels_are_resampled_and_mixed_down(plugin, tmp_path) -> None:
    path = write_audio(tmp_path / "a.wav", 44_100, 1.3, num_channels=2)
    rows = list(mapped_by(plugin, {"messages": [chat()], "audios": [[str(path)]]}))
    mono = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    samples = soxr.resample(mono, 44_100, RATE, quality="soxr_hq")
    assert rows[0]["media_info"][0]["num_samples"] == -(-len(mono) * RATE // 44_100)
    samples = np.pad(samples, (0, max(0, rows[0]["media_info"][0]["num_samples"] - len(samples))))
    theirs = expected_batch(plugin.processor, [chat()], [samples])
    assert_same(plugin.collator(padding_side="right")(rows), theirs)


@pytest.mark.parametrize("column", ["audios", "audio"])
def test_undecoded_audio_columns_of_datasets(column: str, plugin, files) -> None:
    feature: object = datasets.Audio(decode=True)
    value: object = str(files[0])
    if column == "audios":
        feature, value = datasets.List(feature), [value]
    mapped = mapped_by(plugin, {"messages": [chat()], column: [value]}, with_audio(feature, column))
    assert mapped.with_format("arrow")["audios"].to_pylist() == [[{"bytes": None, "path": str(files[0])}]]


class Decoder:
    """Carries what it was made of, as the decoder objects of `datasets` do."""

    metadata = None

    def __init__(self, path: Path) -> None:
        self._hf_encoded = {"path": str(path), "bytes": None}

    def get_all_samples(self):
        raise AssertionError("decoded in map")


def test_decoder_objects_are_read_from_their_files(plugin, files) -> None:
    made = plugin.transform({"messages": [chat()], "audio": [Decoder(files[0])]})
    assert made["audios"] == [[{"bytes": None, "path": str(files[0])}]]


def test_arrays_without_a_rate_are_refused(plugin, files) -> None:
    for column, value in (("audios", [wav_samples(files[0])]), ("audio", wav_samples(files[0]))):
        with pytest.raises(MediaReferenceError, match=r"row 0 of the batch, column 'audios?', index 0.*sampling_rate"):
            plugin.transform({"messages": [chat()], column: [value]})


# --------------------------------------------------------------------------------------------------- header only


@pytest.mark.parametrize("format", ["wav", "flac", "mp3"])
def test_no_sample_is_decoded(format: str, plugin, tmp_path, monkeypatch) -> None:
    path = tmp_path / f"a.{format}"
    path.write_bytes(encode_audio(make_audio(RATE, 2 * RATE), RATE, format))

    real, counts = soundfile.SoundFile.read, []

    def counted(sound: soundfile.SoundFile, frames: int = -1, **kwargs: object) -> np.ndarray:
        counts.append(frames)
        return real(sound, frames, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "read", counted)
        mapped = plugin.transform({"messages": [chat()], "audios": [[str(path)]]})
    assert counts == ([1] if format == "flac" else [])  # whose last sample tells whether it is whole
    assert mapped["media_info"][0][0]["num_samples"] == 2 * RATE
    assert plugin.collator()(rows_of(mapped))["input_features"].shape[0] == 1


# -------------------------------------------------------------------------------------------------------- errors


def test_errors_name_row_column_index_and_source(plugin, files) -> None:
    batch = {"messages": [chat("x"), chat("<audio><audio>")], "audios": [[], [str(files[0]), "gone.wav"]]}
    with pytest.raises(MediaNotFoundError, match=r"row 1 of the batch, column 'audios', index 1 \(gone.wav\)"):
        plugin.transform(batch)
    with pytest.raises(MediaDecodeError, match=r"row 0 of the batch, column 'audios', index 0"):
        plugin.transform({"messages": [chat()], "audios": [[b"no audio"]]})


@pytest.mark.parametrize("count", [1, 3])
def test_counts_that_do_not_match_are_named(count: int, plugin, files) -> None:
    with pytest.raises(PlaceholderError, match=rf"the messages have 2 audio placeholder.*row has {count} audio\(s\)"):
        plugin.transform({"messages": [chat("<audio><audio>")], "audios": [[str(files[0])] * count]})


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe", "gemma3n", "gemma4"])
def test_audio_that_is_too_short_is_named(name: str, tmp_path) -> None:
    """Shorter than one token's worth: refused in the map, or taken, and then collated as planned."""
    plugin = auto_plugin(build_processor(name))
    for count in (1, 80, 200, 400, 700, 1000):
        path = tmp_path / f"{count}.wav"
        soundfile.write(path, np.zeros(count), RATE)
        try:
            rows = rows_of(plugin.transform({"messages": [chat("x"), chat()], "audios": [[], [str(path)]]}))
        except MediaError as error:
            message = str(error)
            assert message.startswith(f"row 1 of the batch, column 'audios', index 0 ({path}): "), message
            continue
        plugin.collator()(rows[1:])


def test_a_changed_file_is_noticed(plugin, tmp_path) -> None:
    path = write_audio(tmp_path / "a.wav", RATE, 1.0)
    rows = rows_of(plugin.transform({"messages": [chat()], "audios": [[str(path)]]}))
    for seconds in (0.5, 1.5):
        write_audio(path, RATE, seconds)
        with pytest.raises(
            MediaDecodeError, match=r"row 0 of the batch, column 'audios', index 0 \(.*a.wav\): 16,000 samples"
        ):
            plugin.collator()(rows)


# ----------------------------------------------------------------------------------------------------- long audio


@pytest.fixture(scope="module")
def long_file(tmp_path_factory) -> Path:
    """Longer than the 30 seconds that Qwen2-Audio takes."""
    return write_audio(tmp_path_factory.mktemp("long") / "a.wav", RATE, 65.3)


def test_long_audio_is_refused(plugin, long_file) -> None:
    batch = {"messages": [chat()], "audios": [[str(long_file)]]}
    with pytest.raises(
        MediaLimitError,
        match=r"row 0 of the batch, column 'audios', index 0 \(.*a.wav\): 65.30 s of audio, but 30.00 s .*'truncate'"
        r".*'chunk'",
    ):
        plugin.transform(batch)


def test_long_audio_is_truncated(long_file) -> None:
    plugin = auto_plugin(build_processor("qwen2_audio"), options=MediaOptions(long_audio="truncate"))
    rows = list(mapped_by(plugin, {"messages": [chat()], "audios": [[str(long_file)]]}))
    assert rows[0]["media_info"][0]["end_s"] == 30.0
    theirs = expected_batch(plugin.processor, [chat()], [wav_samples(long_file)[: 30 * RATE]])
    assert_same(plugin.collator(padding_side="right")(rows), theirs)


@pytest.mark.parametrize("limit", [None, 12.0])
def test_long_audio_becomes_several_items(limit: float | None, long_file, files) -> None:
    options = MediaOptions(long_audio="chunk", audio_max_duration_s=limit)
    plugin = auto_plugin(build_processor("qwen2_audio"), options=options)
    chats = [chat("<audio> then <audio>?")]
    rows = list(mapped_by(plugin, {"messages": chats, "audios": [[str(long_file), str(files[0])]]}))
    records = rows[0]["media_info"]
    pieces = int(-(-65.3 // (limit or 30)))
    assert [record["item"] for record in records] == [0] * pieces + [1]
    assert len(rows[0]["audios"]) == 2
    samples = wav_samples(long_file)
    bounds = [round(record["start_s"] * RATE) for record in records[:-1]] + [len(samples)]
    assert [record["num_samples"] for record in records[:-1]] == np.diff(bounds).tolist()
    audio = [samples[start:end] for start, end in pairwise(bounds)] + [wav_samples(files[0])]
    written = [chat("<audio>" * pieces + " then <audio>?")]
    assert_same(plugin.collator(padding_side="right")(rows), expected_batch(plugin.processor, written, audio))
    for record in records:
        assert set(rows[0]["labels"][record["start"] : record["end"]]) == {-100}
    trained = [token for token in rows[0]["labels"] if token != -100]
    assert plugin.processor.tokenizer.decode(trained).startswith("This.")


def test_a_limit_of_the_user(files) -> None:
    plugin = auto_plugin(build_processor("qwen2_audio"), options=MediaOptions(audio_max_duration_s=1.0))
    plugin.transform({"messages": [chat()], "audios": [[str(files[0])]]})
    with pytest.raises(MediaLimitError, match=r"1.70 s of audio, but 1.00 s"):
        plugin.transform({"messages": [chat()], "audios": [[str(files[1])]]})


# ----------------------------------------------------------------------------------------------- storing, processes


@pytest.mark.parametrize("form", ["disk", "parquet", "embedded"])
def test_stored_datasets_give_the_same_batch(form: str, plugin, files, tmp_path) -> None:
    array = {"array": make_audio(22_050, 9_000, 2), "sampling_rate": 22_050}
    columns = {
        "messages": [chat(), chat("none"), chat("<audio>, <audio>")],
        "audios": [[str(files[0])], [], [array, files[1].read_bytes()]],
    }
    mapped = datasets.Dataset.from_dict(plugin.transform(columns), features=plugin.features())
    if form == "disk":
        mapped.save_to_disk(tmp_path / "data")
        stored = datasets.load_from_disk(tmp_path / "data")
    elif form == "parquet":
        mapped.to_parquet(tmp_path / "a.parquet")
        stored = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    else:
        stored = datasets.Dataset(embed_table_storage(mapped.data.table))
        assert stored[0]["audios"] == [{"bytes": files[0].read_bytes(), "path": files[0].name}]
    assert stored.features == mapped.features
    assert_same(plugin.collator()(list(stored)), without_labels(plugin.collator()(list(mapped))))


def test_two_processes_give_the_same_rows(plugin, files) -> None:
    columns = {"messages": [chat()] * 4, "audios": [[str(files[index % 3])] for index in range(4)]}
    mapped = mapped_by(plugin, columns, num_proc=2)
    assert mapped["input_ids"][:] == plugin.transform(columns)["input_ids"]


def test_streaming_datasets(plugin, files) -> None:
    columns = {"messages": [chat(), chat("x")], "audios": [[str(files[0])], []]}
    features = with_audio(datasets.List(datasets.Audio(decode=False)))
    stream = datasets.Dataset.from_dict(columns, features=features).to_iterable_dataset()
    rows = list(stream.map(plugin.transform, batched=True, remove_columns=list(columns)))
    assert [row["input_ids"] for row in rows] == plugin.transform(columns)["input_ids"]
    plugin.collator()(rows)


# -------------------------------------------------------------------------------------------- all three together


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni_moe", "gemma4"])
def test_images_videos_and_audio_stand_in_the_order_of_the_text(name: str, files, image_file, tmp_path) -> None:
    options = MediaOptions(video_sampling="uniform", video_num_frames=4)
    plugin = auto_plugin(build_processor(name), options=options)
    video = write_video(tmp_path / "v.mp4", VideoSpec(num_frames=9, rate=Fraction(8)))
    kinds = ["audio", "image", "video", "audio"]
    columns = {
        "audios": [[str(files[0]), str(files[1])]],
        "videos": [[str(video)]],
        "messages": [chat(" ".join(f"<{kind}>" for kind in kinds))],
        "images": [[str(image_file(60, 60))]],
    }
    row = mapped_by(plugin, columns)[0]
    assert [record["modality"] for record in row["media_info"]] == kinds
    assert [record["item"] for record in row["media_info"]] == [0, 0, 0, 1]
    starts = [record["start"] for record in row["media_info"]]
    assert starts == sorted(starts)
    batch = plugin.collator()([row])
    assert {"pixel_values", "pixel_values_videos", "input_features"} <= set(batch)
