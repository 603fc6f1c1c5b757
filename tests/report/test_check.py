"""`check_dataset`: sound datasets have no problems, and each fault is found where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import MADE_BY, SEQUENCE_LENGTHS
from mmdatasets.report.check import check_dataset
from mmdatasets.testing.mapped import FIRST_MEDIA_TOKEN, make_mapped
from mmdatasets.testing.processors import build_processor
from tests.report.cases import chat, make_plugin, map_rows, rows_of, write_media


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def plugin():
    return make_plugin()


@pytest.fixture(scope="module")
def mapped(plugin, media):
    return map_rows(plugin, rows_of(media))


def changed(mapped: Dataset, row: int, change) -> Dataset:
    """The dataset with one row changed."""
    rows = mapped.to_list()
    change(rows[row])
    return Dataset.from_list(rows, features=mapped.features)


def found(dataset: Dataset, **settings) -> list[tuple[str, int | None, str | None, int | None]]:
    return [(one.kind, one.row, one.column, one.index) for one in check_dataset(dataset, **settings).problems]


def test_sound_datasets_have_no_problems(plugin, mapped, media):
    pairs = Dataset.from_list(
        [
            {"prompt": chat("<image>What?")[:1], "chosen": chat("", "Good.")[1:], "rejected": chat("", "B")[1:]}
            | {"images": [media["small"]]}
        ]
    )
    compared = pairs.map(
        plugin.preference_transform, batched=True, features=plugin.preference_features(pairs.features)
    )
    materialised = mapped.map(plugin.materialise, batched=True, features=plugin.materialised_features(mapped.features))
    packed = plugin.packer(max_length=max(mapped["length"]) + 60).pack(mapped)
    assert len(packed) < len(mapped)
    for dataset in (mapped, mapped.with_format("torch"), mapped.select([3, 1]), packed, compared, materialised):
        for settings in ({}, {"deep": True}, {"media_token_ids": plugin.engine.media_token_ids}):
            result = check_dataset(dataset, **settings)
            assert (result.problems, result.not_checked) == ((), ())
            assert result.decoded == (sum(map(len, dataset["media_info"])) if "deep" in settings else 0)
    result = check_dataset(mapped, deep=True, collate=plugin.collator())
    assert result.is_sound
    assert str(result) == "5 rows, 5 media references, 5 items decoded: no problems"


@pytest.mark.parametrize("name", ["gemma3", "internvl", "llava_next", "minicpmv4_6", "mllama", "pixtral", "qwen3_vl"])
@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_the_rows_of_families_that_write_media_in_other_ways(name, train_on, media):
    """Line breaks, tile separators, time stamps, and tokens that stand in the text and not for media."""
    plugin = auto_plugin(build_processor(name), train_on=train_on)
    numbers = [0, 1, 2, 4] if "video" in plugin.modalities else [0, 1, 4]
    mapped = map_rows(plugin, rows_of(media).select(numbers).remove_columns("audios"))
    result = check_dataset(mapped, deep=True)
    assert (result.problems, result.not_checked, result.decoded) == ((), (), 3 + ("video" in plugin.modalities))


def test_media_of_many_rows_that_is_not_there():
    dataset = make_mapped(3000, made_by=make_plugin().made_by)
    result = check_dataset(dataset, max_problems=2)
    assert result.counts == {"missing": result.references}
    assert len(result.problems) == 2
    assert str(result).splitlines()[2] == f"... and {result.references - 2:,} more"


def _grow(row):
    row["input_ids"].append(1)


def _relabel(row):
    first = next(index for index, label in enumerate(row["labels"]) if label != -100)
    row["labels"][first] += 1


def _train_media(row):
    at = row["media_info"][0]["start"] + 1
    row["labels"][at] = row["input_ids"][at]


def _replace_media_token(row):
    at = (row["media_info"][0]["start"] + row["media_info"][0]["end"]) // 2
    row["input_ids"][at] = 1


def _move_out(row):
    row["media_info"][-1]["end"] = row["length"] + 1


def _overlap(row):
    row["media_info"][1]["start"] = row["media_info"][0]["end"] - 1


def _empty(row):
    row["images"][0] = {"bytes": b"", "path": None}


def _nothing(row):
    row["images"][0] = {"bytes": None, "path": None}


def _lose(row):
    row["images"][1] = {"bytes": None, "path": "lost.png"}


@pytest.mark.parametrize(
    ("change", "row", "problems"),
    [
        (_grow, 1, [("length", 1, "length", None), ("length", 1, "labels", None)]),
        (_relabel, 1, [("labels", 1, "labels", None)]),
        (_train_media, 1, [("trained_media", 1, "images", 0)]),
        (_replace_media_token, 1, [("media_tokens", 1, "images", 0)]),
        (_move_out, 1, [("span", 1, "images", 1)]),
        (_overlap, 1, [("span", 1, "images", 1)]),
        (lambda row: row["images"].pop(), 1, [("references", 1, "images", None)]),
        (lambda row: row["media_info"].pop(), 1, [("references", 1, "images", None)]),
        (lambda row: row["media_info"][1].update(item=0), 1, [("references", 1, "images", None)]),
        (lambda row: row["media_info"][0].update(num_tokens=0), 1, [("media_tokens", 1, "images", 0)]),
        (lambda row: row["video_frames"].pop(), 2, [("references", 2, "video_frames", None)]),
        (_empty, 0, [("missing", 0, "images", 0)]),
        (_nothing, 0, [("missing", 0, "images", 0)]),
        (_lose, 1, [("missing", 1, "images", 1)]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_fault_is_found_where_it_is(mapped, plugin, change, row, problems):
    tokens = {"media_token_ids": plugin.engine.media_token_ids}
    assert set(found(changed(mapped, row, change), **tokens)) >= set(problems)
    kinds = {kind for kind, *_ in found(changed(mapped, row, change), **tokens)}
    assert kinds == {kind for kind, *_ in problems}


def test_the_media_token_is_found_out_and_a_wrong_one_among_many(plugin):
    dataset = make_mapped(200, made_by=plugin.made_by)
    row = next(number for number, info in enumerate(dataset["media_info"]) if info)
    problems = found(changed(dataset, row, _replace_media_token))
    assert [one for one in problems if one[0] == "media_tokens"] == [
        ("media_tokens", row, *problems_place(dataset, row))
    ]
    assert dataset[row]["input_ids"].count(FIRST_MEDIA_TOKEN) or dataset[row]["media_info"][0]["modality"] != "image"


def problems_place(dataset: Dataset, row: int) -> tuple[str, int]:
    record = dataset[row]["media_info"][0]
    return {"image": "images", "video": "videos", "audio": "audios"}[record["modality"]], record["item"]


def test_sequences_of_packed_rows(plugin, mapped):
    packed = plugin.packer(max_length=sum(mapped["length"])).pack(mapped)
    assert len(packed) == 1

    def lengthen(row):
        row[SEQUENCE_LENGTHS][0] += 1

    def divide(row):
        record = row["media_info"][0]
        middle, first = (record["start"] + record["end"]) // 2, row[SEQUENCE_LENGTHS][0]
        row[SEQUENCE_LENGTHS][:1] = [middle, first - middle]

    assert found(changed(packed, 0, lengthen)) == [("sequences", 0, SEQUENCE_LENGTHS, None)]
    assert found(changed(packed, 0, divide)) == [("sequences", 0, "images", 0)]


def test_types_of_columns(mapped):
    result = check_dataset(mapped.cast_column("length", Value("int64")))
    assert [(one.kind, one.column, one.row) for one in result.problems] == [("type", "length", None)]
    assert result.rows == 0  # nothing else is said of such a dataset
    assert found(mapped.remove_columns("video_frames")) == [("type", None, "video_frames", None)]
    assert found(mapped.remove_columns(MADE_BY)) == [("type", None, MADE_BY, None)]
    features = Features({**mapped.features, "audios": List(Value("string"))})
    rows = [{**row, "audios": [item["path"] for item in row["audios"]]} for row in mapped.to_list()]
    assert found(Dataset.from_list(rows, features=features)) == [("type", None, "audios", None)]


def test_a_column_of_the_source_that_the_model_does_not_take_is_none_of_its(media):
    source = rows_of(media).select([0, 1, 4])
    plugin = auto_plugin(build_processor("qwen2_vl"))
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    assert mapped.features["audios"] == List(Value("string"))
    assert found(mapped, deep=True) == []


def test_deep_decodes_what_was_planned(plugin, media, tmp_path):
    copies = {name: tmp_path / Path(path).name for name, path in media.items()}
    for name, copy in copies.items():
        copy.write_bytes(Path(media[name]).read_bytes())
    mapped = map_rows(plugin, rows_of({name: str(copy) for name, copy in copies.items()}))
    content = copies["small"].read_bytes()
    copies["small"].write_bytes(content[: len(content) // 2])  # its header is whole
    copies["large"].write_bytes(Path(media["small"]).read_bytes())
    copies["clip"].write_bytes(b"")
    copies["speech"].write_bytes(copies["speech"].read_bytes()[:20_000])
    assert found(mapped) == []  # that is not read without deep
    wrong = [
        ("decode", 0, "images", 0),
        ("decode", 1, "images", 0),
        ("decode", 1, "images", 1),
        ("decode", 2, "videos", 0),
        ("decode", 3, "audios", 0),
    ]
    assert found(mapped, deep=True) == wrong
    collated = found(mapped, deep=True, collate=plugin.collator())
    assert [one[:2] for one in collated] == [("decode", row) for row in range(4)]


def test_relative_paths_start_from_the_media_root(plugin, mapped, media):
    folder = Path(media["small"]).parent

    def shorten(row):
        row["images"] = [{**item, "path": Path(item["path"]).name} for item in row["images"]]

    relative = changed(mapped, 0, shorten)
    assert found(relative) == [("missing", 0, "images", 0)]
    assert found(relative, options=MediaOptions(media_root=str(folder)), deep=True) == []


def test_what_is_remote_is_left_alone_and_said(mapped):
    def refer(row):
        row["images"][0] = {"bytes": None, "path": "https://example.com/a.png"}

    result = check_dataset(changed(mapped, 0, refer))
    assert result.is_sound
    assert result.not_checked == ("whether 1 remote file(s) can be read: that takes decoding them",)
    assert found(changed(mapped, 0, refer), deep=True) == [("decode", 0, "images", 0)]  # http is not allowed


def test_what_it_refuses(mapped, media):
    with pytest.raises(MMDatasetsError, match="was not mapped: its columns are messages"):
        check_dataset(rows_of(media))
    with pytest.raises(MMDatasetsError, match="streams"):
        check_dataset(mapped.to_iterable_dataset())
