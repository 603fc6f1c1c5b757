"""Datasets that say what made them: kept by what `datasets` does with them, and by a hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset, concatenate_datasets, interleave_datasets, load_dataset, load_from_disk

from mmdatasets import MediaOptions, ShrinkFloor, auto_plugin, load_collator, load_plugin
from mmdatasets.errors import MMDatasetsError, UnknownPluginError
from mmdatasets.features import MADE_BY
from mmdatasets.integrations.hub import count_rows, dataset_card, push_to_hub, read_record
from mmdatasets.plugins.generic import StandardPlugin
from mmdatasets.plugins.registry import register_mm_plugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, write_video
from tests.integrations.loopback_hub import hub_environment, loopback_hub

CLIENT = Path(__file__).with_name("hub_client.py")


def chat(text):
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture
def source(image_file):
    columns = {"messages": [chat("<image>1"), chat("2"), chat("<image><image>3")]}
    columns["images"] = [[str(image_file(60, 60))], [], [str(image_file(60, 60)), str(image_file(90, 60))]]
    return Dataset.from_dict(columns)


def map_with(plugin, source):
    return source.map(plugin.transform, batched=True, batch_size=2, features=plugin.features(source.features))


@pytest.fixture
def plugin():
    return auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(image_max_pixels=50_176))


@pytest.fixture
def mapped(plugin, source):
    return map_with(plugin, source)


def test_what_made_it_survives(mapped, plugin, tmp_path) -> None:
    mapped.save_to_disk(tmp_path / "saved")
    mapped.to_parquet(tmp_path / "mapped.parquet")
    parquet = {"path": "parquet", "data_files": str(tmp_path / "mapped.parquet"), "split": "train"}
    kept = {
        "save_to_disk": load_from_disk(tmp_path / "saved"),
        "parquet": load_dataset(**parquet),
        "streaming": load_dataset(**parquet, streaming=True),
        "select": mapped.select([1]),
        "shuffle": mapped.shuffle(seed=0),
        "filter": mapped.filter(lambda row: row["length"] > 0),
        "map": mapped.map(lambda row: {"note": row["length"]}),
        "concatenate": concatenate_datasets([mapped, mapped]),
        "interleave": interleave_datasets([mapped, mapped]),
        "iterable": mapped.to_iterable_dataset().shuffle(seed=0, buffer_size=4),
        "packed": plugin.packer(max_length=1000).pack(mapped),
        "packed in batches": mapped.map(
            plugin.packer(max_length=1000), batched=True, remove_columns=mapped.column_names
        ),
        "splits": datasets.DatasetDict(train=mapped, test=mapped.select([0])),
    }
    for name, dataset in kept.items():
        assert read_record(dataset) == read_record(mapped), name
    batch = plugin.collator()(list(mapped))
    for name in ("save_to_disk", "parquet", "streaming"):
        again = load_collator(kept[name], build_processor("qwen2_vl"))(list(kept[name]))
        assert again.keys() == batch.keys()
        assert all(torch.equal(again[key], batch[key]) for key in batch), name


def test_rows_of_another_processor_or_setting_do_not_join(mapped, source) -> None:
    other = map_with(auto_plugin(build_processor("qwen2_vl")), source)
    for join in (concatenate_datasets, interleave_datasets):
        with pytest.raises(ValueError, match=r"made_by.*qwen2_vl, processor \w+, settings \w+") as caught:
            join([mapped, other])
        assert read_record(mapped).label in str(caught.value)
        assert read_record(other).label in str(caught.value)
    splits = datasets.DatasetDict(train=mapped, test=other)
    with pytest.raises(MMDatasetsError, match=r"train: qwen2_vl.*test: qwen2_vl"):
        read_record(splits)


def test_in_processes_and_from_streams_rows_say_the_same(plugin, source, mapped) -> None:
    forked = source.map(plugin.transform, batched=True, num_proc=2, remove_columns=source.column_names)
    assert forked.features[MADE_BY] == mapped.features[MADE_BY]
    stream = source.to_iterable_dataset().map(
        plugin.transform, batched=True, features=plugin.features(source.features), remove_columns=source.column_names
    )
    assert read_record(stream) == read_record(mapped)
    assert [row[MADE_BY] for row in stream] == [0, 0, 0]
    untyped = source.to_iterable_dataset().map(plugin.transform, batched=True)
    with pytest.raises(MMDatasetsError, match=r"its columns are unknown.*features=plugin\.features"):
        read_record(untyped)


def test_another_processor_is_refused_for_what_differs(mapped) -> None:
    sized = build_processor("qwen2_vl")
    sized.image_processor.size = {"shortest_edge": 3136, "longest_edge": 50_000}
    with pytest.raises(MMDatasetsError, match=r"image_processor\.size\.longest_edge was 12845056, here it is 50000"):
        load_collator(mapped, sized)
    worded = build_processor("qwen2_vl")
    worded.tokenizer.add_tokens(["<|new|>"])
    with pytest.raises(MMDatasetsError, match=r"tokenizer\S*\.json is another"):
        load_collator(mapped, worded)
    templated = build_processor("qwen2_vl")
    templated.chat_template += "\n"
    with pytest.raises(MMDatasetsError, match=r"chat_template\.jinja is another"):
        load_collator(mapped, templated)
    with pytest.raises(MMDatasetsError, match="a Qwen2VLProcessor, and this is a LlavaProcessor"):
        load_collator(mapped, build_processor("llava"))
    with pytest.raises(MMDatasetsError, match="was not loaded from a hub: pass processor"):
        load_collator(mapped)


def test_settings_come_back_and_those_of_the_machine_do_not(source, image_file, tmp_path) -> None:
    options = MediaOptions(
        image_max_pixels=50_176, video_fps=2.0, allow_http=True, media_root=str(image_file(60, 60).parent)
    )
    plugin = auto_plugin(
        build_processor("qwen2_vl"),
        options=options,
        train_on="last",
        max_length=500,
        on_overflow="shrink",
        shrink_floor=ShrinkFloor(video_frames=2),
        allowed_special=("<|box_start|>",),
        row_log=str(tmp_path / "log"),
    )
    mapped = map_with(plugin, source)
    loaded = load_plugin(mapped, build_processor("qwen2_vl"))
    for name in ("train_on", "max_length", "on_overflow", "shrink_floor", "allowed_special", "family"):
        assert getattr(loaded, name) == getattr(plugin, name), name
    assert loaded.options == MediaOptions(image_max_pixels=50_176, video_fps=2.0)
    assert loaded.row_log is None
    text = mapped.features[MADE_BY].id
    assert str(tmp_path) not in text
    assert options.media_root not in text
    given = load_plugin(mapped, build_processor("qwen2_vl"), allow_http=True, train_on="all")
    assert given.options.allow_http
    assert given.train_on == "all"


def test_what_does_not_say_what_made_it(source, mapped) -> None:
    with pytest.raises(MMDatasetsError, match=r"no column 'made_by' with its type .*messages, images"):
        load_collator(source)
    cast = mapped.cast_column(MADE_BY, datasets.Value("int64"))
    with pytest.raises(MMDatasetsError, match="no column 'made_by' with its type"):
        load_collator(cast)
    text = mapped.features[MADE_BY].id
    for wrong, message in ((text[:-5], "damaged"), (text.replace('version": 4', 'version": 3'), "schema version 3")):
        feature = datasets.ClassLabel(names=["x"], id=wrong)
        with pytest.raises(MMDatasetsError, match=message):
            load_collator(mapped.cast_column(MADE_BY, feature))


def test_a_family_that_is_not_registered(source) -> None:
    register_mm_plugin("own_family", StandardPlugin, processors=("Qwen2VLProcessor",))
    from mmdatasets import get_mm_plugin
    from mmdatasets.plugins import registry

    plugin = get_mm_plugin("own_family", processor=build_processor("qwen2_vl"))
    mapped = map_with(plugin, source)
    assert type(load_plugin(mapped, build_processor("qwen2_vl"))) is StandardPlugin
    del registry._FAMILIES["own_family"]
    with pytest.raises(UnknownPluginError, match="own_family"):
        load_plugin(mapped, build_processor("qwen2_vl"))


def test_collators_of_other_rows(mapped, plugin, image_file) -> None:
    processor = build_processor("qwen2_vl")
    packed = plugin.packer(max_length=1000).pack(mapped)
    with pytest.raises(MMDatasetsError, match=r"config=model\.config"):
        load_collator(packed, processor)
    config = build_model("qwen2_vl", processor).config
    batch = load_collator(packed, processor, config=config)(list(packed))
    expected = plugin.packed_collator(config)(list(packed))
    assert all(torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(expected[name])) for name in expected)
    image = str(image_file(60, 60))
    answers = {"prompt": [chat("<image>")[:1]], "chosen": [chat("")[1:]], "rejected": [chat("")[1:]]}
    pairs = Dataset.from_dict({**answers, "images": [[image]]})
    compared = pairs.map(
        plugin.preference_transform, batched=True, features=plugin.preference_features(pairs.features)
    )
    assert load_collator(compared, processor, trainer="reward").trainer == "reward"


def test_the_card(mapped, plugin) -> None:
    text = dataset_card(mapped, "me/mine")
    assert "| Family | `qwen2_vl` |" in text
    assert f"`{plugin.snapshot.digest}`" in text
    assert "`image_max_pixels=50176`" in text
    assert "| Schema version | 4 |" in text
    tokens = sum(mapped["length"])
    assert f"| train | 3 | {tokens:,} | 3 | 0 | 0 |" in text
    assert 'load_dataset("me/mine", split="train")' in text
    assert count_rows(mapped.select([2, 0])) == {
        "rows": 2,
        "tokens": mapped[2]["length"] + mapped[0]["length"],
        "images": 3,
        "videos": 0,
        "audios": 0,
    }


def test_what_streams_has_no_card(mapped) -> None:
    for dataset in (mapped.to_iterable_dataset(), datasets.IterableDatasetDict(train=mapped.to_iterable_dataset())):
        with pytest.raises(MMDatasetsError, match="streams"):
            push_to_hub(dataset, "me/mine")


@pytest.mark.slow  # a process with torch, transformers and the client
def test_a_hub_and_back(tmp_path) -> None:
    """With the real client: nested media inside the files, streaming, and the collator from what was loaded."""
    write_image(tmp_path / "a.jpg", 120, 90)
    write_video(tmp_path / "a.mp4", VideoSpec(num_frames=6, width=64, height=48))
    write_audio(tmp_path / "a.wav", sampling_rate=16_000, duration_s=0.4)
    with loopback_hub() as hub:
        done = subprocess.run(
            [sys.executable, str(CLIENT), str(tmp_path)],
            env=hub_environment(hub, tmp_path / "home"),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        card = hub.card("tester/mapped")
    found = json.loads(done.stdout.splitlines()[-1])
    refusal = found.pop("refusal")
    assert found == dict.fromkeys(("by address", "features", "batch", "streamed", "ids", "kept"), True)
    assert "image_processor.size.longest_edge was 12845056, here it is 50176" in refusal
    assert "dataset_info:" in card  # what `datasets` wrote stays
    assert "- mmdatasets" in card
    # One card says it of all that was pushed, one after the other.
    counted = [line.split(" | ")[:2] for line in card.partition("| split | rows |")[2].splitlines()[2:5]]
    assert counted == [["| train", "5"], ["| validation", "2"], ["| texts: test", "1"]]
    assert 'load_dataset("tester/mapped", "texts", split="test")' in card
    assert "`image_max_pixels=100000`" in card
