"""Rows that cannot be used, by each policy: through `datasets.map`, preference data and streams."""

from __future__ import annotations

import errno
import io
import logging
from pathlib import Path

import av.error
import datasets
import pyarrow.parquet as pq
import pytest
from datasets.fingerprint import Hasher

from mmdatasets import auto_plugin
from mmdatasets.errors import (
    ConversationError,
    MediaDecodeError,
    MediaNotFoundError,
    MediaProcessorError,
    MissingExtraError,
    MissingTemplateError,
    MMDatasetsError,
    RowTooLongError,
    TooManyBadRowsError,
)
from mmdatasets.integrations.arrow import ArrowTransform
from mmdatasets.media.wire import read_answer, write_error
from mmdatasets.testing.processors import build_processor
from mmdatasets.transforms.bad_rows import BadRowTally, is_fault_of_row, reason_of
from mmdatasets.transforms.row_log import SCHEMA, LoggedRow, read_row_log, row_digest, write_row_log
from tests.conftest import ImageFactory

# Row -> reason, of the rows of `source` that cannot be used.
BAD = {1: "media_not_found", 3: "media_decode", 4: "placeholder", 6: "conversation"}
LONG = "word " * 90


def chat(question: str, answer: str | None = "Yes.") -> list[dict[str, str | None]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def processor():
    return build_processor("qwen2_vl")


@pytest.fixture
def source(image_file: ImageFactory, tmp_path: Path) -> datasets.Dataset:
    """Eight rows, of which four cannot be used, and the last is long."""
    good, damaged = str(image_file(60, 60)), tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")
    rows = [
        {"messages": chat("<image>0?"), "images": [good]},
        {"messages": chat("<image><image>1?"), "images": [good, str(tmp_path / "missing.png")]},
        {"messages": chat("2?"), "images": []},
        {"messages": chat("<image>3?"), "images": [str(damaged)]},
        {"messages": chat("<image><image>4?"), "images": [good]},
        {"messages": chat("<image>5?"), "images": [good]},
        {"messages": [], "images": []},
        {"messages": chat(f"<image>{LONG}"), "images": [good]},
    ]
    return datasets.Dataset.from_list([{**row, "id": index} for index, row in enumerate(rows)])


def map_with(plugin, source, **kwargs):
    settings = {"batched": True, "with_indices": True, "features": plugin.features(source.features), "batch_size": 3}
    return source.map(plugin.transform, **(settings | kwargs))


@pytest.mark.parametrize("num_proc", [None, 2])
def test_bad_rows_are_quarantined_and_the_others_are_what_they_are_by_themselves(
    num_proc, processor, source, tmp_path
) -> None:
    plugin = auto_plugin(processor, on_error="quarantine", row_log=str(tmp_path / "log"))
    mapped = map_with(plugin, source, num_proc=num_proc)
    good = [index for index in range(len(source)) if index not in BAD]
    alone = map_with(auto_plugin(processor), source.select(good))
    assert mapped.features == alone.features
    assert mapped["id"][:] == good
    assert mapped[:] == alone[:]
    log = read_row_log(tmp_path / "log")
    assert log.schema == SCHEMA
    assert dict(zip(log["row"].to_pylist(), log["reason"].to_pylist(), strict=True)) == BAD
    missing = log.to_pylist()[0]
    assert (missing["outcome"], missing["column"], missing["index"]) == ("dropped", "images", 1)
    assert missing["source"] == str(tmp_path / "missing.png")
    assert "no such file" in missing["message"]
    assert missing["digest"] == row_digest(source[1])
    # Mapped again in batches of another size, nothing is counted twice.
    map_with(plugin, source, batch_size=8, load_from_cache_file=False)
    assert read_row_log(tmp_path / "log").equals(log)


def test_raise_names_the_first_bad_row(processor, source, tmp_path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"row 1, column 'images', index 1 \(.*missing.png\): no such file"):
        auto_plugin(processor).transform(source[:4], list(range(4)))


def test_skip_counts_in_a_warning_or_in_the_log(processor, source, tmp_path, caplog) -> None:
    plugin = auto_plugin(processor, on_error="skip")
    before = Hasher.hash(plugin)
    with caplog.at_level(logging.WARNING, "mmdatasets"):
        made = plugin.transform(source[:])
    assert "dropped 4 of 8 rows (conversation: 1, media_decode: 1, media_not_found: 1, placeholder: 1)" in caplog.text
    assert (len(made["input_ids"]), made["id"]) == (4, [0, 2, 5, 7])
    assert plugin.bad_rows.reasons == dict.fromkeys(BAD.values(), 1)
    assert Hasher.hash(plugin) == before
    # Row numbers are not known here: a digest tells which rows they were, and equal ones are counted each.
    logging_plugin = auto_plugin(processor, on_error="skip", row_log=str(tmp_path / "log"))
    twice = datasets.concatenate_datasets([source, source])
    assert len(map_with(logging_plugin, twice, with_indices=False, batch_size=16)) == 8
    log = read_row_log(tmp_path / "log")
    assert log["row"].null_count == len(log) == 8
    assert set(log["digest"].to_pylist()) == {row_digest(source[index]) for index in BAD}


def test_batches_of_bad_rows_alone_keep_the_schema(processor, source, tmp_path) -> None:
    bad = source.select(list(BAD))
    for fields in ({}, {"max_length": 60, "on_overflow": "drop"}):
        plugin = auto_plugin(processor, on_error="skip", **fields)
        mapped = map_with(plugin, bad, batch_size=2)
        assert len(mapped) == 0
        assert mapped.features == plugin.features(bad.features)


def test_the_report_on_lengths_counts_both_kinds(processor, source, tmp_path) -> None:
    plugin = auto_plugin(
        processor, max_length=60, on_overflow="drop", on_error="quarantine", row_log=str(tmp_path / "log")
    )
    mapped = map_with(plugin, source)
    for given in (source, None):
        report = plugin.fit_report(mapped, given)
        assert (report.kept, report.dropped) == (3, 5)
        assert report.reasons["dropped"] == dict.fromkeys([*BAD.values(), "too_long"], 1)
    strict = auto_plugin(processor, max_length=60, on_error="quarantine", row_log=str(tmp_path / "other"))
    assert map_with(strict, source)["id"][:] == mapped["id"][:]
    assert read_row_log(tmp_path / "other")["reason"].to_pylist()[-1] == "row_too_long"


def test_streams_lose_the_same_rows(processor, source) -> None:
    plugin = auto_plugin(processor, on_error="skip")
    stream = source.to_iterable_dataset().map(
        plugin.transform, batched=True, batch_size=3, remove_columns=["messages"]
    )
    rows = list(stream)
    assert [row["id"] for row in rows] == [0, 2, 5, 7]
    alone = auto_plugin(processor).transform(source.select([0, 2, 5, 7])[:])
    assert [list(row["input_ids"]) for row in rows] == [list(ids) for ids in alone["input_ids"]]


def test_preferences(processor, image_file, tmp_path, source) -> None:
    good = str(image_file(60, 60))
    rows = [
        {"prompt": "<image>0?", "chosen": "Yes.", "rejected": "No.", "images": [good]},
        {"prompt": "<image>1?", "chosen": "Yes.", "rejected": "No.", "images": [str(tmp_path / "missing.png")]},
        {"prompt": "<image>2?", "chosen": "Yes.", "rejected": "", "images": [good]},
        {"prompt": "<image>3?", "chosen": f"{LONG}", "rejected": "No.", "images": [good]},
        {"prompt": "4?", "chosen": "Yes.", "rejected": "No.", "images": []},
    ]
    paired = datasets.Dataset.from_list(rows)
    fields = {"max_length": 60, "on_overflow": "drop", "row_log": str(tmp_path / "log")}
    plugin = auto_plugin(processor, on_error="quarantine", **fields)
    features = plugin.preference_features(paired.features)
    mapped = paired.map(plugin.preference_transform, batched=True, with_indices=True, features=features)
    log = read_row_log(tmp_path / "log")
    dropped = dict(zip(log["row"].to_pylist(), log["reason"].to_pylist(), strict=True))
    kept = [index for index in range(5) if index not in dropped]
    assert (dropped[1], dropped[3]) == ("media_not_found", "too_long")
    alone = auto_plugin(processor, max_length=60).preference_transform(paired.select(kept)[:])
    assert mapped["chosen_ids"][:] == [list(ids) for ids in alone["chosen_ids"]]
    verdicts = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b", "label": None}]
    unpaired = datasets.Dataset.from_list(verdicts)
    made = auto_plugin(processor, on_error="skip").preference_transform(unpaired[:])
    assert made["label"] == [True]


@pytest.mark.parametrize(
    ("error", "is_of_row"),
    [
        (MediaDecodeError("damaged"), True),
        (ConversationError("no role"), True),
        (RowTooLongError("long"), True),
        (MissingExtraError.for_package("soxr", "audio", "resampling"), False),
        (MissingTemplateError("none"), False),
        (MMDatasetsError("no processor"), False),
    ],
)
def test_whose_fault_an_error_is(error, is_of_row) -> None:
    assert is_fault_of_row(error) == is_of_row


@pytest.mark.parametrize("cause", [MemoryError(), ImportError("sklearn"), OSError(errno.EMFILE, "too many files")])
def test_what_the_machine_lacks_is_no_fault_of_a_row(cause) -> None:
    error = MediaProcessorError("the processor refuses it")
    error.__cause__ = cause
    assert not is_fault_of_row(error)


def test_errors_that_are_their_own_cause_are_judged() -> None:
    first, second = MediaDecodeError("a"), MediaDecodeError("b")
    first.__cause__, second.__cause__ = second, first
    assert is_fault_of_row(first)
    first.__cause__ = first
    assert is_fault_of_row(first)


def test_what_ffmpeg_has_no_memory_for_is_the_fault_of_the_file() -> None:
    """It does not believe sizes in damaged files, and says that of memory; here, and in the process that decodes."""
    error = MediaDecodeError("not a readable video")
    error.__cause__ = av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
    assert is_fault_of_row(error)
    file = io.BytesIO()
    write_error(file, error)
    file.seek(0)
    assert is_fault_of_row(read_answer(file))


def test_half_of_a_character_is_the_fault_of_its_row_alone(processor) -> None:
    rows = [chat("One?"), chat("Two \ud83d?"), chat("Three?")]
    plugin = auto_plugin(processor, on_error="skip")
    made = plugin.transform({"messages": rows})
    assert len(made["input_ids"]) == 2
    assert plugin.bad_rows.reasons == {"conversation": 1}
    with pytest.raises(ConversationError, match=r"row 1 of the batch: the text has half of a character \('\\ud83d'"):
        auto_plugin(processor).transform({"messages": rows})


def test_configuration_errors_and_interrupts_stop_the_map(processor, source, monkeypatch) -> None:
    bare = build_processor("qwen2_vl")
    bare.chat_template = bare.tokenizer.chat_template = None
    plugin = auto_plugin(bare, on_error="skip")
    plugin.__dict__["default_chat_template"] = None
    with pytest.raises(MissingTemplateError):
        plugin.transform(source[:])
    interrupted = auto_plugin(processor, on_error="skip")

    def interrupt(items: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted.engine.media, "plan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.transform(source[:])


def test_too_many_bad_rows_stop_the_run(processor, source, tmp_path) -> None:
    log = str(tmp_path / "log")
    plugin = auto_plugin(processor, on_error="quarantine", row_log=log, max_bad_rows=2)
    with pytest.raises(TooManyBadRowsError) as caught:
        map_with(plugin, source)
    message = str(caught.value)
    assert message.startswith("3 of the first 5 rows cannot be used in this process, more than max_bad_rows allows:")
    assert f"1 media_not_found, for example row 1, column 'images', index 1 ({tmp_path / 'missing.png'})" in message
    assert read_row_log(log)["row"].to_pylist() == [1, 3, 4]  # what was found is kept
    consecutive = auto_plugin(processor, on_error="skip", max_consecutive=1)
    with pytest.raises(TooManyBadRowsError, match="2 rows, one after another, cannot be used"):
        map_with(consecutive, source)  # rows 3 and 4, of one batch
    with pytest.raises(TooManyBadRowsError, match="2 rows, one after another"):
        map_with(auto_plugin(processor, on_error="skip", max_consecutive=1), source, batch_size=4)  # of two batches


def test_the_tally_shows_the_commonest_reasons() -> None:
    tally = BadRowTally(5, None)
    tally.add(9, {0: MediaDecodeError("bits", row=0), 2: ConversationError("a"), 3: ConversationError("b")})
    with pytest.raises(TooManyBadRowsError) as caught:
        tally.add(3, {position: MediaNotFoundError("gone", row=position) for position in range(3)})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("6 of the first 12 rows")
    assert lines[1:4] == [
        "  3 media_not_found, for example row 0: gone",
        "  2 conversation, for example a",
        "  1 media_decode, for example row 0: bits",
    ]
    assert reason_of(MediaProcessorError("x")) == "media_processor"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on_error": "ignore"}, "on_error='ignore' is none of 'raise', 'skip', 'quarantine'"),
        ({"on_error": "quarantine"}, "on_error='quarantine' needs row_log"),
        ({"max_bad_rows": -1}, "max_bad_rows must be a number of rows or None"),
        ({"max_consecutive": True}, "max_consecutive must be a number of rows or None"),
    ],
)
def test_wrong_settings(fields, message, processor) -> None:
    with pytest.raises(ValueError, match=message):
        auto_plugin(processor, **fields)


def test_logs_of_before_there_were_messages_are_read(tmp_path) -> None:
    write_row_log(str(tmp_path), "run", [], [LoggedRow(1, "dropped", "too_long")])
    [path] = tmp_path.iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["message", "digest"]), path)
    assert read_row_log(tmp_path).to_pylist()[0]["message"] is None


def test_row_digests_tell_rows_apart() -> None:
    rows = [{"a": "1"}, {"a": 1}, {"a": [1]}, {"a": b"1"}, {"a": True}, {"b": "1"}, {"a": ["x", "y"]}, {"a": ["xy"]}]
    assert len({row_digest(row) for row in rows}) == len(rows)
    assert row_digest({"a": 1, "b": None}) == row_digest({"b": None, "a": 1})


STRICT = """{% for m in messages %}{% if m.role == 'assistant' and loop.first %}{{ raise_exception('begins') }}
{% endif %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}
<|im_end|>
{% endfor %}"""
BAD_TEXTS = {
    "conversation": [
        [{"role": "user", "content": None}, {"role": "assistant", "content": "Yes."}],
        chat("?", None),
        [{"role": None, "content": "?"}, {"role": "assistant", "content": "Yes."}],
        None,
    ],
    "template": [[{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "?"}]],
}


@pytest.mark.parametrize("way", ["map", "stream", "arrow"])
def test_texts_that_cannot_be_used(way, processor) -> None:
    bad = [(reason, messages) for reason, some in BAD_TEXTS.items() for messages in some]
    rows = [{"messages": chat("Good?")}, *({"messages": messages} for _, messages in bad), {"messages": chat("So?")}]
    source = datasets.Dataset.from_list(rows)
    plugin = auto_plugin(processor, on_error="skip", chat_template=STRICT)
    if way == "map":
        made = source.map(plugin.transform, batched=True)["input_ids"][:]
    elif way == "stream":
        stream = source.to_iterable_dataset()
        made = [row["input_ids"] for row in stream.map(plugin.transform, batched=True, remove_columns=["messages"])]
    else:
        made = ArrowTransform(plugin, source.features)(source.data.table)["input_ids"].to_pylist()
    good = plugin.transform({"messages": [chat("Good?"), chat("So?")]})
    assert made == good["input_ids"]
    if way != "map":  # which pickles the plugin
        assert plugin.bad_rows.reasons == {"conversation": 4, "template": 1}


def test_answers_that_cannot_be_used(processor) -> None:
    plugin = auto_plugin(processor, on_error="skip", chat_template=STRICT)
    answers = {"chosen": [[{"role": "assistant", "content": "Yes."}]] * 4}
    prompts = [chat("?")[:1], None, [{"role": "user", "content": None}], [{"role": "assistant", "content": "?"}]]
    rejected = [*[[{"role": "assistant", "content": "No."}]] * 4]
    made = plugin.preference_transform({"prompt": prompts, **answers, "rejected": rejected})
    assert len(made["chosen_ids"]) == 1
    assert plugin.bad_rows.reasons.total() == 3
