"""`plugin.transform` inside `datasets`: types, pass-through, header-only reading, fingerprints, processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets.fingerprint import Hasher

from mmdatasets import MediaOptions, auto_plugin, get_mm_plugin
from mmdatasets.errors import ConversationError, MediaDecodeError, MediaError, MediaNotFoundError, PlaceholderError
from mmdatasets.testing.media import cut_pixel_data, encode_image, make_image
from mmdatasets.testing.processors import build_processor

REPOSITORY = Path(__file__).parents[2]


def chat(text: str = "<image>What?") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


def test_types_do_not_depend_on_which_rows_come_first(plugin, image_file) -> None:
    rows = [
        {"messages": chat("no image"), "images": [], "id": 1},
        {"messages": chat(), "images": [str(image_file(60, 60))], "id": 2},
    ]
    for order in (rows, rows[::-1]):
        dataset = datasets.Dataset.from_list(
            order,
            features=datasets.Features(
                {
                    "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
                    "images": datasets.List(datasets.Image()),
                    "id": datasets.Value("int64"),
                }
            ),
        )
        for features in (None, plugin.features(dataset.features)):
            mapped = dataset.map(plugin.transform, batched=True, batch_size=1, features=features)
            own = ["input_ids", "labels", "length", "media_info", "images", "videos", "video_frames", "made_by"]
            assert mapped.column_names == ["id", *own]
            expected = plugin.features(dataset.features)
            if features is None:  # datasets keeps the source's own feature where the Arrow types are the same
                expected["images"] = dataset.features["images"]
            assert mapped.features == expected
            assert sorted(mapped["id"]) == [1, 2]


def test_every_reference_form_gives_the_same_row(plugin, tmp_path: Path) -> None:
    image = make_image(130, 70, seed=3)
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    forms = [
        str(path),
        path,
        data,
        io.BytesIO(data),
        {"path": str(path), "bytes": None},
        {"path": None, "bytes": data},
    ]
    forms += [image, np.asarray(image), f"file://{path}"]
    mapped = [plugin.transform({"messages": [chat()], "images": [[form]]}) for form in forms]
    assert all(row["input_ids"] == mapped[0]["input_ids"] for row in mapped)
    collate = plugin.collator()
    batches = [collate([{name: column[0] for name, column in row.items()}]) for row in mapped]
    for batch in batches:
        assert np.array_equal(batch["pixel_values"].numpy(), batches[0]["pixel_values"].numpy())


def test_a_single_image_without_a_list(plugin, image_file) -> None:
    result = plugin.transform({"messages": [chat()], "images": [str(image_file(60, 60))]})
    assert len(result["images"][0]) == 1


@pytest.mark.parametrize("form", ["dict", "arrow", "iterable"])
def test_other_batches_than_maps(form: str, plugin, image_file) -> None:
    columns = {"messages": [chat(), chat("none")], "images": [[str(image_file(60, 60))], []], "id": [5, 6]}
    expected = plugin.transform({name: columns[name] for name in columns})
    if form == "arrow":
        table = plugin.transform(pa.table(columns))
        assert isinstance(table, pa.Table)
        assert datasets.Features.from_arrow_schema(table.schema)["images"] == datasets.List(
            datasets.Image(decode=False)
        )
        assert table["id"].to_pylist() == [5, 6]
        assert table["input_ids"].to_pylist() == expected["input_ids"]
    elif form == "iterable":
        stream = datasets.Dataset.from_dict(columns).to_iterable_dataset().map(plugin.transform, batched=True)
        assert [row["input_ids"] for row in stream] == expected["input_ids"]
    else:
        assert set(expected) == set(plugin.features())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_no_pixel_is_decoded(kind: str, plugin, tmp_path: Path) -> None:
    whole = encode_image(600, 400, format=kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(cut_pixel_data(whole))
    with pytest.raises(Exception), PIL.Image.open(path) as image:  # noqa: B017, PT011 - Pillow raises several
        image.load()
    dataset = datasets.Dataset.from_dict({"messages": [chat()], "images": [[str(path)]]})
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))
    assert mapped[0]["media_info"][0]["width"] == 600
    with pytest.raises(MediaDecodeError) as caught:
        plugin.collator()([mapped[0]])
    assert "row 0 of the batch, column 'images', index 0" in str(caught.value)
    assert path.name in str(caught.value)


def test_an_image_column_is_not_decoded_by_map(plugin, tmp_path: Path) -> None:
    data = cut_pixel_data(encode_image(600, 400, format="JPEG"))
    dataset = datasets.Dataset.from_dict(
        {"messages": [chat()], "images": [[{"bytes": data, "path": None}]]},
        features=datasets.Features({"messages": datasets.Json(), "images": [datasets.Image(decode=True)]}),
    )
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))
    assert mapped[0]["images"] == [{"bytes": data, "path": None}]


def test_errors_name_row_column_index_and_source(plugin, image_file) -> None:
    batch = {"messages": [chat("x"), chat("<image><image>")], "images": [[], [str(image_file(60, 60)), "gone.jpg"]]}
    with pytest.raises(MediaNotFoundError, match=r"row 1 of the batch, column 'images', index 1 \(.*gone.jpg"):
        plugin.transform(batch)
    with pytest.raises(PlaceholderError, match="row 0 of the batch"):
        plugin.transform({"messages": [chat("<image><image>")], "images": [[str(image_file(60, 60))]]})
    with pytest.raises(ConversationError, match=r"expected 'messages'; or 'conversations'.*found title, body"):
        plugin.transform({"title": ["x"], "body": ["y"]})
    dataset = datasets.Dataset.from_dict({name: values * 3 for name, values in batch.items()})
    with pytest.raises(MediaNotFoundError, match="row 1, column"):
        dataset.map(plugin.transform, batched=True, with_indices=True)


def test_limits_and_protocols_are_refused_at_map(image_file) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(image_pixel_limit=1000))
    with pytest.raises(MediaError, match="row 0 of the batch, column 'images', index 0"):
        plugin.transform({"messages": [chat()], "images": [[str(image_file(60, 60))]]})
    with pytest.raises(MediaError, match="allow_http"):
        plugin.transform({"messages": [chat()], "images": [["http://127.0.0.1:9/a.jpg"]]})


def test_media_root_resolves_relative_paths(image_file, tmp_path, monkeypatch) -> None:
    path = image_file(60, 60)
    monkeypatch.chdir(path.parent.parent)
    for root in (str(path.parent), path.parent.name):
        plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(media_root=root))
        dataset = datasets.Dataset.from_dict({"messages": [chat()], "images": [[path.name]]})
        mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))
        assert mapped[0]["images"][0]["path"] == str(path)
        assert plugin.collator()([mapped[0]])["pixel_values"].shape[0] == 16
        mapped.save_to_disk(tmp_path / root.replace("/", "_"))  # embeds the file, which it must find


def test_placeholders_without_an_image_column_are_refused(plugin) -> None:
    with pytest.raises(PlaceholderError, match=r"row 0 of the batch: the text has 1 '<image>'.*images_column="):
        plugin.transform({"messages": [chat()], "photos": [["a.jpg"]]})
    row = plugin.transform({"messages": [chat()], "images": [[]]})
    assert row["media_info"] == [[]]
    plugin.transform(
        {"messages": [[{"role": "user", "content": "How?"}, {"role": "assistant", "content": "<image>"}]]}
    )


def test_null_media_is_no_literal_text(plugin) -> None:
    features = datasets.Features({"messages": datasets.Json(), "images": [datasets.Image(decode=False)]})
    dataset = datasets.Dataset.from_dict({"messages": [chat("x"), chat()], "images": [[], None]}, features=features)
    with pytest.raises(PlaceholderError, match=r"row 1: the text has 1 '<image>'"):
        dataset.map(plugin.transform, batched=True, with_indices=True)


@pytest.mark.parametrize("column", ["audios", "audio"])
def test_media_that_the_model_does_not_take_is_refused(column: str, plugin) -> None:
    with pytest.raises(
        MediaError, match=r"row 1 of the batch, column 'audios': \w+ takes no audios, but the row has 1"
    ):
        plugin.transform({"messages": [chat("x")] * 2, column: [None, ["a.wav"]]})
    assert plugin.transform({"messages": [chat("x")], column: [[]]})["length"]


@pytest.mark.parametrize("column", ["labels", "length", "media_info", "input_ids"])
def test_columns_are_not_overwritten(column: str, plugin) -> None:
    with pytest.raises(ConversationError, match=f"would overwrite the column\\(s\\) {column}"):
        plugin.transform({"messages": [chat("x")], column: [1]})


def test_images_inside_messages_are_not_decoded(plugin) -> None:
    data = cut_pixel_data(encode_image(600, 400, format="JPEG"))
    part = {"type": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}
    features = datasets.Features({"messages": [{"role": datasets.Value("string"), "content": [part]}]})
    parts = [
        {"type": "image", "text": None, "image": {"bytes": data, "path": None}},
        {"type": "text", "text": "What?", "image": None},
    ]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "This.", "image": None}]}
    dataset = datasets.Dataset.from_dict(
        {"messages": [[{"role": "user", "content": parts}, answer]]}, features=features
    )
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))
    assert mapped[0]["images"] == [{"bytes": data, "path": None}]
    assert mapped[0]["input_ids"] == plugin.transform({"messages": [chat()], "images": [[data]]})["input_ids"][0]


@pytest.mark.parametrize("form", ["numpy", "torch", "arrow"])
def test_formatted_datasets(form: str, plugin, image_file) -> None:
    rows = {"messages": [chat(), chat("none")], "images": [[str(image_file(60, 60))], []]}
    features = datasets.Features({"messages": datasets.Json(), "images": [datasets.Image(decode=False)]})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    mapped = dataset.with_format(form).map(
        plugin.transform, batched=True, features=plugin.features(features), remove_columns=["messages"]
    )
    assert mapped.with_format(None)["input_ids"][:] == plugin.transform(rows)["input_ids"]


def test_other_calls_of_map_are_explained(plugin) -> None:
    dataset = datasets.Dataset.from_dict({"messages": [chat("x")]})
    with pytest.raises(ConversationError, match="batched=True"):
        dataset.map(plugin.transform, batched=True, input_columns=["messages"])
    with pytest.raises(ConversationError, match="batched=True"):
        dataset.with_format("pandas").map(plugin.transform, batched=True)


def test_embedded_images_pass_through(plugin, image_file) -> None:
    files = [encode_image(60 + 10 * index, 60) for index in range(4)]
    images = [[{"bytes": files[0], "path": "a.jpg"}], [], [{"bytes": files[1], "path": None}] * 2]
    inline = [{"type": "image", "image": str(image_file(60, 60))}, {"type": "image"}]
    chats = [chat(), chat("none"), chat("<image><image>")]
    features = datasets.Features({"messages": datasets.Json(), "images": [datasets.Image(decode=False)]})
    dataset = datasets.Dataset.from_dict({"messages": chats, "images": images}, features=features)
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(features))
    assert mapped["images"][:] == images
    mixed = [[{"role": "user", "content": inline}, {"role": "assistant", "content": "x"}]]
    dataset = datasets.Dataset.from_dict({"messages": mixed, "images": images[:1]}, features=features)
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(features))
    assert mapped[0]["images"] == [{"bytes": None, "path": str(image_file(60, 60))}, images[0][0]]


# ------------------------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_is_the_same_before_and_after_use(image_file) -> None:
    for name in ("qwen2_vl", "qwen3_vl"):
        processor = build_processor(name)
        plugin = auto_plugin(processor)
        before = Hasher.hash(plugin.transform)
        fresh = Hasher.hash(auto_plugin(build_processor(name)).transform)
        rows = plugin.transform({"messages": [chat()], "images": [[str(image_file(60, 60))]]})
        plugin.collator()([{key: column[0] for key, column in rows.items()}])
        processor(text=["a", "b c d e f"], padding=True, truncation=True, max_length=4)
        processor.tokenizer.backend_tokenizer.enable_padding(length=7)
        assert Hasher.hash(plugin.transform) == before == fresh
        assert Hasher.hash(auto_plugin(processor).transform) == before


def test_the_fingerprint_tells_settings_apart() -> None:
    processor = build_processor("qwen2_vl")
    other = build_processor("qwen2_vl")
    other.image_processor.size = {"shortest_edge": 3136, "longest_edge": 100_000}
    plugins = [
        auto_plugin(processor),
        get_mm_plugin("generic", processor=processor),
        auto_plugin(processor, options=MediaOptions(image_max_pixels=100_000)),
        auto_plugin(processor, allowed_special="all"),
        auto_plugin(processor, chat_template=processor.chat_template + " "),
        auto_plugin(other),
        auto_plugin(build_processor("qwen2_5_vl")),
    ]
    assert len({Hasher.hash(plugin.transform) for plugin in plugins}) == len(plugins)


def test_fingerprinting_is_cheap(plugin) -> None:
    state = plugin.__getstate__()
    assert state["snapshot"] is plugin.snapshot  # taken once, not with each hash


SCRIPT = """
    import json, sys
    import datasets
    from mmdatasets import auto_plugin
    from mmdatasets.testing.processors import build_processor

    num_proc = int(sys.argv[2])
    processor = build_processor("qwen2_vl")
    dataset = datasets.load_dataset("json", data_files=sys.argv[1], split="train")
    if "use" in sys.argv:
        from mmdatasets.testing.media import make_image
        text = processor.image_token + " a"
        processor(text=[text] * 2, images=[[make_image(900, 700)]] * 2, padding=True, return_tensors="pt")
    plugin = auto_plugin(processor)
    mapped = dataset.map(plugin.transform, batched=True, batch_size=2, num_proc=num_proc if num_proc > 1 else None,
                         features=plugin.features(dataset.features))
    ids = list(mapped["input_ids"])
    print(json.dumps({"fingerprint": mapped._fingerprint, "files": mapped.cache_files, "ids": ids}))
"""


def run_script(tmp_path: Path, *arguments: str) -> dict:
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("PYTHONHASHSEED", None)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_hits_the_cache(tmp_path: Path, image_file) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"messages": chat(), "images": [str(image_file(60 + 30 * index, 60))]} for index in range(6)]
    data.write_text("\n".join(map(json.dumps, rows)))
    first = run_script(tmp_path, str(data), "2")
    files = [Path(item["filename"]) for item in first["files"]]
    assert len(files) == 2
    written = [path.stat().st_mtime_ns for path in files]
    # The second run uses the processor in the parent before the map, as a notebook does: with OpenMP threads started,
    # forked workers must not wait for them.
    second = run_script(tmp_path, str(data), "2", "use")
    assert second == first
    assert [path.stat().st_mtime_ns for path in files] == written
    plugin = auto_plugin(build_processor("qwen2_vl"))
    serial = plugin.transform({name: [row[name] for row in rows] for name in ("messages", "images")})
    assert first["ids"] == serial["input_ids"]


@pytest.mark.slow
def test_workers_do_not_hang_after_the_processor_was_used(tmp_path: Path, image_file) -> None:
    """Nothing is cached here: the forked workers do map."""
    data = tmp_path / "data.jsonl"
    rows = [{"messages": chat(), "images": [str(image_file(60 + 30 * index, 60))]} for index in range(6)]
    data.write_text("\n".join(map(json.dumps, rows)))
    plugin = auto_plugin(build_processor("qwen2_vl"))
    serial = plugin.transform({name: [row[name] for row in rows] for name in ("messages", "images")})
    assert run_script(tmp_path, str(data), "2", "use")["ids"] == serial["input_ids"]
