"""Videos in rows: what `map` stores of them, and the batches that come of it."""

from __future__ import annotations

import io
import pickle
from fractions import Fraction
from pathlib import Path

import av
import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from datasets.table import embed_table_storage

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.collate.rows import media_of
from mmdatasets.errors import MediaDecodeError, MediaError, MediaNotFoundError, PlaceholderError
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.testing.media import cut_pixel_data, encode_image
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.video import VideoSpec, make_frame, read_frame_number, write_video
from mmdatasets.transforms import media as media_module
from tests.media_oracle import assert_same, full_decode, metadata_of, own_call

SECOND = Fraction(8)  # frames


def chat(text: str = "<video>What?") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_vl"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Four videos of different sizes and lengths."""
    folder = tmp_path_factory.mktemp("videos")
    specs = [
        VideoSpec(num_frames=16, rate=SECOND),
        VideoSpec(num_frames=9, rate=SECOND, width=160, height=96, first_number=100),
        VideoSpec(num_frames=5, rate=SECOND, width=64, height=128, first_number=200),
        VideoSpec(num_frames=5, rate=SECOND, width=224, height=160),
    ]
    return [write_video(folder / f"{index}.mp4", spec) for index, spec in enumerate(specs)]


def mapped_by(plugin, columns, features=None, **kwargs):
    dataset = datasets.Dataset.from_dict(columns, features=features)
    return dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features), **kwargs)


def rows_of(columns) -> list[dict[str, object]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def with_media(feature) -> datasets.Features:
    return datasets.Features({"messages": datasets.Json(), "videos": feature})


def texts_of(plugin, chats) -> list[str]:
    """The chats as the processor's own template writes them."""
    parts = []
    for messages in chats:
        own = []
        for message in messages:
            pieces: list[dict[str, str]] = []
            for index, text in enumerate(message["content"].split("<video>")):
                pieces += [{"type": "video"}] * bool(index) + [{"type": "text", "text": text}] * bool(text)
            own.append({**message, "content": pieces})
        parts.append(own)
    return [plugin.processor.apply_chat_template(one) for one in parts]


def expected_batch(plugin, chats, rows, **kwargs):
    """The processor's own call on every row's videos, each decoded in full."""
    videos = []
    for row in rows:
        for record, stored in zip(row["media_info"], row["videos"], strict=True):
            frames = full_decode(stored["path"])[list(record["frame_indices"])]
            videos.append((frames, metadata_of(record)))
    return own_call(plugin.processor, texts_of(plugin, chats), videos=videos, **kwargs)


# ---------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize("first", [[], None])
def test_types_do_not_depend_on_which_rows_come_first(first, plugin, files) -> None:
    features = with_media(datasets.List(datasets.Video(decode=False)))
    columns = {"messages": [chat("none"), chat()], "videos": [first, [str(files[0])]]}
    mapped = mapped_by(plugin, columns, features, batch_size=1)
    assert mapped.features == plugin.features(features)
    assert mapped.features["videos"] == datasets.List(datasets.Video(decode=False))
    assert mapped.features["video_frames"] == datasets.List(datasets.List(datasets.Image(decode=False)))
    assert mapped["videos"][:] == [[], [{"bytes": None, "path": str(files[0])}]]
    assert mapped["video_frames"][:] == [[], [[]]]


def test_media_info_says_what_is_decoded(plugin, files) -> None:
    mapped = mapped_by(plugin, {"messages": [chat("<video>, <video>?")], "videos": [[str(files[0]), str(files[1])]]})
    first, second = mapped[0]["media_info"]
    tokens = plugin.processor.tokenizer.convert_ids_to_tokens(mapped[0]["input_ids"])
    assert tokens[first["start"] : first["end"]] == [
        "<|vision_start|>", *["<|video_pad|>"] * first["num_tokens"], "<|vision_end|>"
    ]  # fmt: skip
    for name in ("start", "end", "num_tokens"):
        del first[name]
    assert first == {
        "modality": "video",
        "item": 0,
        "width": 112,
        "height": 64,
        "frame_indices": list(range(16)),
        "timestamps_s": [index / 8 for index in range(16)],
        "num_source_frames": 16,
        "fps": 8.0,
        "duration_s": 2.0,
        "start_s": None,
        "end_s": None,
        "num_samples": None,
        "max_pixels": None,
        "materialised": False,
    }
    assert (second["item"], second["width"], second["height"]) == (1, 160, 96)
    assert second["frame_indices"] == list(range(9))


# ---------------------------------------------------------------------------------------------------- equal batches


def test_a_batch_is_the_processors_own(plugin, files) -> None:
    chats = [chat("<video> and <video>?"), chat("nothing"), chat("<video>")]
    paths = [[str(files[0]), str(files[1])], [], [str(files[2])]]
    mapped = mapped_by(plugin, {"messages": chats, "videos": paths})
    rows = list(mapped)
    assert_same(plugin.collator()(rows), expected_batch(plugin, chats, rows))


def test_every_reference_form_gives_the_same_batch(plugin, files) -> None:
    path = str(files[0])
    data = files[0].read_bytes()
    forms = [path, files[0], data, {"path": path, "bytes": None}, {"path": None, "bytes": data}, f"file://{path}"]
    mapped = [rows_of(plugin.transform({"messages": [chat()], "videos": [[form]]})) for form in forms]
    assert all(rows[0]["input_ids"] == mapped[0][0]["input_ids"] for rows in mapped)
    expected = expected_batch(plugin, [chat()], mapped[0])
    for rows in mapped:
        assert_same(plugin.collator()(rows), expected)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("column", ["videos", "video"])
def test_video_columns_of_datasets_are_not_decoded(decode: bool, column: str, plugin, files) -> None:
    feature = datasets.Video(decode=decode)
    value: object = str(files[0])
    if column == "videos":
        feature, value = datasets.List(feature), [value]
    features = datasets.Features({"messages": datasets.Json(), column: feature})
    mapped = mapped_by(plugin, {"messages": [chat()], column: [value]}, features)
    assert column == "videos" or column not in mapped.column_names
    assert mapped.with_format("arrow")["videos"].to_pylist() == [[{"bytes": None, "path": str(files[0])}]]
    rows = [{**mapped[0], "videos": [{"path": str(files[0]), "bytes": None}]}]
    assert_same(plugin.collator()([mapped[0]]), expected_batch(plugin, [chat()], rows))


def frame_list(count: int = 6, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    return [make_frame(index, *size) for index in range(count)]


@pytest.mark.parametrize("column", ["videos", "video"])
def test_frame_lists(column: str, plugin) -> None:
    frames = frame_list()
    feature: object = datasets.List(datasets.Image())
    value: object = [PIL.Image.fromarray(frame) for frame in frames]
    if column == "videos":
        feature, value = datasets.List(feature), [value]
    features = datasets.Features({"messages": datasets.Json(), column: feature})
    mapped = mapped_by(plugin, {"messages": [chat()], column: [value]}, features)
    assert mapped[0]["videos"] == [None]
    assert [len(one) for one in mapped[0]["video_frames"]] == [6]
    record = mapped[0]["media_info"][0]
    assert (record["fps"], record["timestamps_s"]) == (None, None)
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    expected = own_call(plugin.processor, texts_of(plugin, [chat()]), videos=[(pixels, metadata_of(record))])
    assert_same(plugin.collator()([mapped[0]]), expected)


@pytest.mark.parametrize("video", [frame_list(), {"frames": frame_list(), "fps": 24.0}])
def test_frame_lists_count_as_sampled(video) -> None:
    plugin = auto_plugin(build_processor("qwen3_vl"))  # which takes two frames a second of a file
    rows = rows_of(plugin.transform({"messages": [chat()], "videos": [[video]]}))
    assert rows[0]["media_info"][0]["frame_indices"] == list(range(6))
    plugin.collator()(rows)


def test_a_frame_list_with_a_rate(plugin) -> None:
    video = {"frames": frame_list(), "fps": 2.0, "start": 1.0, "end": 2.5}
    rows = rows_of(plugin.transform({"messages": [chat()], "videos": [[video]]}))
    record = rows[0]["media_info"][0]
    assert record["frame_indices"] == [2, 3, 4]
    assert record["timestamps_s"] == [1.0, 1.5, 2.0]
    assert record["duration_s"] == 1.5
    batch = plugin.collator()(rows)
    pixels = torch.from_numpy(np.stack(frame_list()[2:5])).permute(0, 3, 1, 2)
    assert_same(batch, own_call(plugin.processor, texts_of(plugin, [chat()]), videos=[(pixels, metadata_of(record))]))


def test_parts_of_videos(plugin, files) -> None:
    path = str(files[0])
    videos = [
        {"path": path, "start": 0.5, "end": 1.0, "indices": None},
        {"path": path, "start": None, "end": None, "indices": [0, 7, 15]},
    ]
    chats = [chat("<video> <video>")]
    mapped = mapped_by(plugin, {"messages": chats, "videos": [videos]})
    part, chosen = mapped[0]["media_info"]
    assert part["frame_indices"] == [4, 5, 6, 7]
    assert (part["num_source_frames"], part["duration_s"]) == (4, 0.5)
    assert chosen["frame_indices"] == [0, 7, 15]
    assert_same(plugin.collator()([mapped[0]]), expected_batch(plugin, chats, [mapped[0]]))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"start": 5.0}, r"5.0 s on is wanted of a video of 2.000 s"),
        ({"start": 1.0, "end": 0.5}, r"'start' \(1 s\) must be before 'end' \(0.5 s\)"),
        ({"indices": [3, 16]}, r"'indices' must name frames from 0 to 15, got 16"),
        ({"start": 0.5, "end": 1.0, "indices": [4, 8]}, r"'indices' must name frames from 4 to 7, got 8"),
        ({"indices": []}, r"'indices' must name frames from 0 to 15, got none"),
        ({"indices": [3, 2]}, r"frame indices must not decrease"),
        ({"indices": ["a"]}, r"'indices' must be a list of integers"),
        ({"indices": 3}, r"'indices' must be a list of integers"),
        ({"fps": 2.0}, r"'fps' belongs to a list of 'frames'"),
    ],
)
def test_parts_that_make_no_sense_are_refused(video, message: str, plugin, files) -> None:
    batch = {"messages": [chat("x"), chat()], "videos": [[], [{"path": str(files[0]), **video}]]}
    with pytest.raises(MediaError, match=f"row 1 of the batch, column 'videos', index 0.*0.mp4\\): .*{message}"):
        plugin.transform(batch)


def test_media_stand_in_the_order_of_the_text(files, image_file) -> None:
    plugin = auto_plugin(build_processor("internvl"), options=MediaOptions(video_num_frames=4))
    picture = image_file(60, 60)
    orders = ["<video> <image> <video>", "<image> <video> <video>"]
    columns = {
        "videos": [[str(files[0]), str(files[2])]] * 2,
        "messages": [chat(order) for order in orders],
        "images": [[str(picture)]] * 2,
    }
    mapped = mapped_by(plugin, columns)
    kinds = [[record["modality"] for record in row["media_info"]] for row in mapped]
    assert kinds == [["video", "image", "video"], ["image", "video", "video"]]
    for row in mapped:
        batch = plugin.collator()([row])
        alone = []
        seen = {"image": 0, "video": 0}
        for record in row["media_info"]:
            kind = record["modality"]
            stored = row[f"{kind}s"][seen[kind]]
            seen[kind] += 1
            own = {**row, "images": [], "videos": [], "video_frames": [], "media_info": [{**record, "item": 0}]}
            own[f"{kind}s"] = [stored]
            own["input_ids"] = row["input_ids"][record["start"] : record["end"]]
            own["labels"] = own["input_ids"]
            alone.append(plugin.collator()([own])["pixel_values"])
        assert torch.equal(batch["pixel_values"], torch.cat(alone))


# --------------------------------------------------------------------------------------------------- header only


def without_later_frames(data: bytes) -> bytes:
    """The file with every packet but the first overwritten: its headers are whole, its frames cannot be decoded."""
    damaged = bytearray(data)
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[1:]:
        damaged[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    return bytes(damaged)


def test_map_decodes_no_frame_but_the_first(plugin, files, tmp_path) -> None:
    path = tmp_path / "damaged.mp4"
    path.write_bytes(without_later_frames(files[0].read_bytes()))
    mapped = mapped_by(plugin, {"messages": [chat()], "videos": [[str(path)]]})
    whole = plugin.transform({"messages": [chat()], "videos": [[str(files[0])]]})
    assert mapped[0]["input_ids"] == whole["input_ids"][0]
    with pytest.raises(MediaDecodeError, match=r"row 0 of the batch, column 'videos', index 0 \(.*damaged.mp4\)"):
        plugin.collator()([mapped[0]])


def test_the_frames_of_a_list_are_not_decoded(plugin) -> None:
    frames = [cut_pixel_data(encode_image(90, 60, seed=seed)) for seed in range(3)]
    rows = rows_of(plugin.transform({"messages": [chat()], "videos": [[frames]]}))
    assert rows[0]["media_info"][0]["frame_indices"] == [0, 1, 2]
    with pytest.raises(MediaDecodeError, match=r"column 'videos', index 0 .*frame 0"):
        plugin.collator()(rows)


# -------------------------------------------------------------------------------------------------------- errors


def test_errors_name_row_column_index_and_source(plugin, files) -> None:
    batch = {"messages": [chat("x"), chat("<video><video>")], "videos": [[], [str(files[0]), "gone.mp4"]]}
    with pytest.raises(MediaNotFoundError, match=r"row 1 of the batch, column 'videos', index 1 \(gone.mp4\)"):
        plugin.transform(batch)
    with pytest.raises(MediaDecodeError, match=r"row 0 of the batch, column 'videos', index 0"):
        plugin.transform({"messages": [chat()], "videos": [[b"no video"]]})


@pytest.mark.parametrize("count", [1, 3])
def test_counts_that_do_not_match_are_named(count: int, plugin, files) -> None:
    with pytest.raises(PlaceholderError, match=rf"the messages have 2 video placeholder.*row has {count} video\(s\)"):
        plugin.transform({"messages": [chat("<video><video>")], "videos": [[str(files[0])] * count]})


def test_placeholders_without_a_video_column_are_refused(plugin) -> None:
    with pytest.raises(PlaceholderError, match=r"the text has 1 '<video>'.*videos_column="):
        plugin.transform({"messages": [chat()], "clips": [["a.mp4"]]})


def test_models_without_videos_refuse_them(files) -> None:
    plugin = auto_plugin(build_processor("llava"))
    with pytest.raises(MediaError, match=r"row 0 of the batch, column 'videos': LlavaProcessor takes no videos"):
        plugin.transform({"messages": [chat()], "videos": [[str(files[0])]]})
    inline = [{"role": "user", "content": [{"type": "video", "video": str(files[0])}]}]
    with pytest.raises(MediaError, match=r"row 0 of the batch, column 'videos', index 0 .*takes no video"):
        plugin.transform({"messages": [inline]})


# -------------------------------------------------------------------------------------------------- changed files


CHANGES = {
    "size": (VideoSpec(num_frames=16, rate=SECOND, width=96), r"96x64 pixels, but 112x64"),
    "count": (VideoSpec(num_frames=12, rate=SECOND), r"12 frames"),
    "times": (VideoSpec(num_frames=16, rate=SECOND * 2), r"planned at 0.125000 s, but is shown at 0.062500 s"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_noticed(change: str, plugin, files, tmp_path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(files[0].read_bytes())
    rows = rows_of(plugin.transform({"messages": [chat()], "videos": [[path]]}))
    spec, message = CHANGES[change]
    write_video(path, spec)
    with pytest.raises(MediaDecodeError, match=rf"row 0 of the batch, column 'videos', index 0 .*{message}"):
        plugin.collator()(rows)


def test_exchanged_videos_are_noticed(plugin, files) -> None:
    rows = rows_of(plugin.transform({"messages": [chat("<video><video>")], "videos": [files[:2]]}))
    rows[0]["videos"] = rows[0]["videos"][::-1]
    with pytest.raises(MediaDecodeError, match="index 0"):
        plugin.collator()(rows)


def test_a_changed_frame_list_is_noticed(plugin) -> None:
    rows = rows_of(plugin.transform({"messages": [chat()], "videos": [[frame_list()]]}))
    shorter = {**rows[0], "video_frames": [rows[0]["video_frames"][0][:4]]}
    with pytest.raises(MediaDecodeError, match="frame 5, but the video has 4 frames"):
        plugin.collator()([shorter])


def test_dropped_video_frames_are_noticed(plugin) -> None:
    rows = rows_of(plugin.transform({"messages": [chat()], "videos": [[frame_list()]]}))
    del rows[0]["video_frames"]
    with pytest.raises(MediaError, match=r"row 0 of the batch, column 'videos', index 0.*'video_frames'"):
        plugin.collator()(rows)


# ----------------------------------------------------------------------------------------------- storing, processes


@pytest.fixture
def mixed(plugin, files, image_file):
    """Rows with files, frame lists and images."""
    columns = {
        "messages": [chat("<video><image>"), chat("none"), chat("<video>, <video>")],
        "videos": [[str(files[0])], [], [frame_list(4), files[1].read_bytes()]],
        "images": [[str(image_file(60, 60))], [], []],
    }
    table = datasets.Dataset.from_dict(plugin.transform(columns), features=plugin.features())
    return table, plugin.collator()(list(table))


@pytest.mark.parametrize("form", ["disk", "parquet", "embedded"])
def test_stored_datasets_give_the_same_batch(form: str, plugin, mixed, tmp_path, files) -> None:
    mapped, expected = mixed
    if form == "disk":
        mapped.save_to_disk(tmp_path / "data")
        stored = datasets.load_from_disk(tmp_path / "data")
    elif form == "parquet":
        mapped.to_parquet(tmp_path / "a.parquet")
        stored = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    else:
        table = pa.concat_tables([embed_table_storage(mapped.data.table)])
        stored = datasets.Dataset(table)
        assert stored[0]["videos"][0]["bytes"] == files[0].read_bytes()
        assert stored[2]["videos"][0] is None  # a list of frames
        assert all(frame["bytes"] for frame in stored[2]["video_frames"][0])
    assert stored.features == mapped.features
    assert_same(plugin.collator()(list(stored)), {name: value for name, value in expected.items() if name != "labels"})


def test_embedded_videos_pass_through(plugin, files) -> None:
    videos = [[{"bytes": path.read_bytes(), "path": path.name}] for path in files[:2]]
    features = with_media(datasets.List(datasets.Video(decode=False)))
    mapped = mapped_by(plugin, {"messages": [chat(), chat()], "videos": videos}, features)
    assert mapped["videos"][:] == videos
    assert len(plugin.collator()(list(mapped))["video_grid_thw"]) == 2


def test_two_processes_give_the_same_rows(plugin, files) -> None:
    columns = {"messages": [chat()] * 4, "videos": [[str(files[index % 3])] for index in range(4)]}
    mapped = mapped_by(plugin, columns, num_proc=2)
    assert mapped["input_ids"][:] == plugin.transform(columns)["input_ids"]
    collator = pickle.loads(pickle.dumps(plugin.collator()))
    expected = plugin.collator()(list(mapped))
    assert_same(collator(list(mapped)), {name: value for name, value in expected.items() if name != "labels"})


def test_streaming_datasets(plugin, files) -> None:
    features = with_media(datasets.List(datasets.Video(decode=False)))
    columns = {"messages": [chat(), chat("x")], "videos": [[str(files[0])], []]}
    stream = datasets.Dataset.from_dict(columns, features=features).to_iterable_dataset()
    rows = list(stream.map(plugin.transform, batched=True, remove_columns=list(columns)))
    assert [row["input_ids"] for row in rows] == plugin.transform(columns)["input_ids"]
    assert rows[0]["videos"] == [{"bytes": None, "path": str(files[0])}]
    assert_same(plugin.collator()(rows), expected_batch(plugin, columns["messages"], rows))


class Decoder:
    """Carries what it was made of, as the decoder objects of `datasets` do."""

    def __init__(self, path: Path) -> None:
        self._hf_encoded = {"path": str(path), "bytes": None}


def test_decoder_objects_are_read_from_their_files(plugin, files) -> None:
    inline = [{"role": "user", "content": [{"type": "video", "video": Decoder(files[0])}]}]
    made = plugin.transform({"messages": [chat(), inline], "videos": [[Decoder(files[0])], []]})
    assert made["videos"] == [[{"bytes": None, "path": str(files[0])}]] * 2
    assert made["media_info"][0][0]["num_tokens"] == made["media_info"][1][0]["num_tokens"]


def test_media_root_becomes_part_of_the_path(files, tmp_path) -> None:
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(media_root=str(files[0].parent)))
    mapped = mapped_by(plugin, {"messages": [chat()], "videos": [[files[0].name]]})
    assert mapped[0]["videos"] == [{"bytes": None, "path": str(files[0])}]
    mapped.save_to_disk(tmp_path / "data")  # embeds the file, which it must find


# ------------------------------------------------------------------------------------------------------ decoding


def test_a_row_may_have_a_video_twice(plugin, files) -> None:
    video = {"path": str(files[0]), "start": 0.0, "end": 1.0}
    later = {"path": str(files[0]), "start": 1.0, "end": 2.0}
    rows = rows_of(plugin.transform({"messages": [chat("<video><video>")], "videos": [[video, later]]}))
    items = plugin.engine.media
    media = media_of(rows[0], plugin.engine)
    first, second = items.load(media.items, media.plans)
    numbers = [[read_frame_number(frame.permute(1, 2, 0).numpy()) for frame in one.data] for one in (first, second)]
    assert numbers == [list(range(8)), list(range(8, 16))]


def test_an_image_of_several_rows_is_decoded_once(plugin, image_file, monkeypatch) -> None:
    path = str(image_file(60, 60))
    text = chat("<image>")
    rows = rows_of(plugin.transform({"messages": [text, text], "images": [[path], [path]]}))
    opened = []
    real = media_module.decode_image
    monkeypatch.setattr(media_module, "decode_image", lambda *args: opened.append(args[0]) or real(*args))
    plugin.collator()(rows)
    assert len(opened) == 1


# -------------------------------------------------------------------------------------------------- pixel budgets

VIDEO_FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "gemma4", "internvl", "smolvlm", "minicpmv4_6",
                  "ernie4_5_vl", "video_llava", "llava_next_video", "llava_onevision", "qwen2_5_omni",
                  "qwen3_omni_moe",
                  "kimi_k25"]  # fmt: skip


@pytest.mark.parametrize("budget", [{"video_max_pixels": 128 * 128}, {"video_min_pixels": 600 * 600}])
@pytest.mark.parametrize("name", VIDEO_FAMILIES)
def test_pixel_budgets(name: str, budget: dict[str, int], files) -> None:
    options = MediaOptions(video_sampling="uniform", video_num_frames=4, **budget)
    plugin = auto_plugin(build_processor(name), options=options)
    rows = rows_of(plugin.transform({"messages": [chat(), chat()], "videos": [[files[0]], [files[3]]]}))
    batch = plugin.collator()(rows)  # which compares the features made with those that were planned
    plain = auto_plugin(build_processor(name), options=MediaOptions(video_sampling="uniform", video_num_frames=4))
    without = rows_of(plain.transform({"messages": [chat(), chat()], "videos": [[files[0]], [files[3]]]}))
    counts = [[row["media_info"][0]["num_tokens"] for row in rows] for rows in (rows, without)]
    for limited, own in zip(*counts, strict=True):
        assert limited <= own if "video_max_pixels" in budget else limited >= own
    if "video_grid_thw" in batch and "video_max_pixels" in budget:
        patch = plugin.processor.video_processor.patch_size
        for _, rows_of_patches, columns in batch["video_grid_thw"].tolist():
            assert rows_of_patches * columns * patch**2 <= budget["video_max_pixels"]


# ------------------------------------------------------------------------------------------------- own get_mm_inputs


class OwnInputsPlugin(Qwen2VLPlugin):
    """Has a `get_mm_inputs` of its own, so that the collator goes through references again."""

    def get_mm_inputs(self, *args):
        return super().get_mm_inputs(*args)


@pytest.mark.parametrize("rate", [None, 4.0])
def test_a_third_partys_own_inputs_are_what_was_planned(rate: float | None, files) -> None:
    """Qwen2.5-VL's seconds between frames depend on the part that they were chosen from, and tell."""
    plugin = auto_plugin(build_processor("qwen2_5_vl"), options=MediaOptions(video_fps=rate))
    own = OwnInputsPlugin(processor=plugin.processor, options=plugin.options)
    part = {"path": str(files[0]), "start": 0.5, "end": 1.5}
    chosen, frames = {"path": str(files[1]), "indices": [1, 2]}, {"frames": [encode_image(64, 64)] * 8, "fps": 2.0}
    for video in (part, chosen, frames | {"start": 0.5, "end": 2.5}):
        columns = {"messages": [chat()], "videos": [[video]]}
        rows = rows_of(own.transform(columns))
        expected = plugin.collator()(rows_of(plugin.transform(columns)))
        assert "second_per_grid_ts" in expected
        assert_same(own.collator()(rows), {name: value for name, value in expected.items() if name != "labels"})


def test_a_third_partys_own_inputs_are_of_the_planned_frames(plugin, files) -> None:
    own = OwnInputsPlugin(processor=plugin.processor)
    video = {"path": str(files[0]), "start": 0.5, "end": 1.0}
    columns = {"messages": [chat("<video> <video>")], "videos": [[video, {"path": str(files[1]), "indices": [1, 2]}]]}
    rows = rows_of(own.transform(columns))
    expected = plugin.collator()(rows_of(plugin.transform(columns)))
    assert_same(own.collator()(rows), {name: value for name, value in expected.items() if name != "labels"})
