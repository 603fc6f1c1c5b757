"""Packing as a map and over a whole dataset: what packed rows consist of, and what is refused."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from datasets.fingerprint import Hasher

from mmdatasets import auto_plugin
from mmdatasets.errors import CollateError
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.specs import AudioSpec, ClipSpec, ImageSpec
from mmdatasets.transforms.packing import Packer

COUNTS = [(1, 0, 0), (0, 0, 0), (2, 1, 0), (0, 0, 2), (0, 2, 1), (1, 1, 1), (0, 0, 0)]
"""Images, videos and audios of each row."""
SPECS = {
    "image": (ImageSpec(60, 60), ImageSpec(90, 60)),
    "video": (ClipSpec(64, 64, (0, 3, 6, 9)), ClipSpec(64, 96, (1, 5, 8, 15))),
    "audio": (AudioSpec(0.6), AudioSpec(0.9)),
}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    files = {kind: [str(spec.write(folder)) for spec in specs] for kind, specs in SPECS.items()}
    chats, media = [], {"images": [], "videos": [], "audios": []}
    for number, counts in enumerate(COUNTS):
        marks = "".join(f"<{kind}>" * count for kind, count in zip(SPECS, counts, strict=True))
        chats.append(
            [{"role": "user", "content": f"{marks} {number}?"}, {"role": "assistant", "content": "This." * 3}]
        )
        for (kind, paths), count in zip(files.items(), counts, strict=True):
            media[f"{kind}s"].append(paths[:count])
    plugin = auto_plugin(build_processor("qwen2_5_omni"))
    source = datasets.Dataset.from_dict({"messages": chats, **media, "id": list(range(len(chats)))})
    return source.map(plugin.transform, batched=True, features=plugin.features(source.features))


def expected(mapped, rows):
    """A packed row, item by item."""
    packed = {name: [] for name in ("input_ids", "labels", "media_info", "images", "videos", "video_frames", "audios")}
    lengths = []
    for row in (mapped[number] for number in rows):
        offset = sum(lengths)
        for record in row["media_info"]:
            item = record["item"] + len(packed[f"{record['modality']}s"])
            moved = {"item": item, "start": record["start"] + offset, "end": record["end"] + offset}
            packed["media_info"].append({**record, **moved})
        for name in packed:
            if name != "media_info":
                packed[name] += row[name]
        lengths.append(row["length"])
    return {**packed, "length": sum(lengths), "sequence_lengths": lengths, "made_by": 0}


def packer_for(mapped, **settings):
    return Packer(int(1.2 * max(mapped["length"])), **settings)


@pytest.mark.parametrize("strategy", ["best_fit", "first_fit", "sequential"])
@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_whole_dataset_is_packed_by_its_plan(mapped, strategy, num_proc):
    packer = packer_for(mapped, strategy=strategy)
    packed = packer.pack(mapped, num_proc=num_proc)
    assert packed.to_list() == [expected(mapped, rows) for rows in packer.plan(mapped)]
    assert packed.features == packer.features(mapped.features)
    assert 1 < len(packed) < len(mapped)


def test_a_map_packs_within_each_batch(mapped):
    packer = packer_for(mapped, strategy="sequential")
    packed = mapped.map(packer, batched=True, batch_size=4, features=packer.features(mapped.features))
    batches = [mapped.select(range(4)), mapped.select(range(4, len(mapped)))]
    assert packed.to_list() == [expected(batch, rows) for batch in batches for rows in packer.plan(batch)]


def test_a_streaming_dataset_is_packed_likewise(mapped):
    packer = packer_for(mapped)
    removed = [name for name in mapped.column_names if name not in packer.features(mapped.features)]
    streamed = mapped.to_iterable_dataset().map(packer, batched=True, batch_size=4, remove_columns=removed)
    stored = mapped.map(packer, batched=True, batch_size=4)
    assert list(streamed) == stored.to_list()


def test_packed_rows_are_packed_again(mapped):
    packer = packer_for(mapped, strategy="sequential")
    once = Packer(max(mapped["length"]), "sequential").pack(mapped)
    assert packer.pack(once)[0] == expected(mapped, range(len(packer.pack(once)[0]["sequence_lengths"])))


def test_packed_rows_survive_files(mapped, tmp_path):
    packed = packer_for(mapped).pack(mapped)
    packed.to_parquet(tmp_path / "packed.parquet")
    read = datasets.Dataset.from_parquet(str(tmp_path / "packed.parquet"))
    assert read.features == packed.features
    assert read.to_list() == packed.to_list()
    packed.save_to_disk(tmp_path / "packed")
    loaded = datasets.load_from_disk(tmp_path / "packed")  # with the files embedded
    assert loaded.features == packed.features
    names = ["input_ids", "labels", "media_info", "sequence_lengths"]
    assert loaded.select_columns(names).to_list() == packed.select_columns(names).to_list()
    assert all(image["bytes"] for row in loaded for image in row["images"])


def test_planning_reads_lengths_alone(mapped):
    lengths = mapped.select_columns(["length"])
    packer = packer_for(mapped)
    assert list(packer.plan(lengths)) == list(packer.plan(mapped))


def test_media_tokens_are_bounded(mapped):
    tokens = [sum(record["num_tokens"] for record in row["media_info"]) for row in mapped]
    bounded = packer_for(mapped, max_patches=max(tokens))
    loose = packer_for(mapped).pack(mapped)
    assert all(sum(tokens[row] for row in rows) <= max(tokens) for rows in bounded.plan(mapped))
    assert len(bounded.pack(mapped)) > len(loose)


def test_packing_is_cached_and_told_apart(mapped, tmp_path):
    mapped.save_to_disk(tmp_path / "mapped")
    stored = datasets.load_from_disk(tmp_path / "mapped")
    first, second = packer_for(mapped).pack(stored), packer_for(mapped).pack(stored)
    assert first._fingerprint == second._fingerprint
    assert first.cache_files == second.cache_files
    assert first.cache_files
    other = packer_for(mapped, strategy="sequential").pack(stored)
    assert other._fingerprint != first._fingerprint
    assert Hasher.hash(packer_for(mapped)) == Hasher.hash(packer_for(mapped))


def test_a_row_that_is_too_long_is_named(mapped):
    longest = int(np.argmax(mapped["length"]))
    packer = Packer(max(mapped["length"]) - 1)
    with pytest.raises(CollateError, match=rf"row {longest}: it has .* tokens, more than max_length=.*on_overflow"):
        packer.pack(mapped)
    with pytest.raises(CollateError, match=rf"row {longest} of the batch: it has"):
        mapped.map(packer, batched=True)
    with pytest.raises(CollateError, match=r"media tokens, more than max_patches=1"):
        packer_for(mapped, max_patches=1).pack(mapped)


def test_rows_that_were_changed_are_refused(mapped):
    packer = packer_for(mapped)
    with pytest.raises(CollateError, match=r"row 0: it has .* input_ids but length is 1"):
        packer.pack(mapped.map(lambda row: {"length": 1}))
    with pytest.raises(CollateError, match=r"row 0: it has .* input_ids but labels has"):
        packer.pack(mapped.map(lambda row: {"labels": row["labels"][:-1]}))
    with pytest.raises(CollateError, match=r"row 0, column 'images': it has 1 item.*describes 0"):
        packer.pack(mapped.map(lambda row: {"media_info": row["media_info"][:0]}))


@pytest.mark.parametrize("kind", ["arrow", "numpy", "torch"])
def test_a_format_of_the_dataset_does_not_change_what_is_packed(mapped, kind):
    packer, formatted = packer_for(mapped), mapped.with_format(kind)
    assert packer.pack(formatted).with_format(None).to_list() == packer.pack(mapped).to_list()
    if kind == "torch":
        with pytest.raises(CollateError, match=r"map over dataset\.with_format\(None\)"):
            formatted.map(packer, batched=True)


def test_what_cannot_be_packed_is_refused(mapped):
    with pytest.raises(CollateError, match=r"'input_ids' among the columns .*plugin.transform"):
        packer_for(mapped).pack(mapped.select_columns(["id", "length"]))
    with pytest.raises(TypeError, match=r"dataset\.map\(packer, batched=True"):
        packer_for(mapped).pack(mapped.to_iterable_dataset())
    with pytest.raises(ValueError, match=r"strategy='tight' is none of 'best_fit', 'first_fit', 'sequential'"):
        Packer(10, "tight")
    with pytest.raises(ValueError, match="max_length must be a positive number"):
        Packer(0)


def test_an_empty_dataset_packs_to_none(mapped):
    assert len(packer_for(mapped).pack(mapped.select([]))) == 0
