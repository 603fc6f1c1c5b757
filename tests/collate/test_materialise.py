"""Materialised rows make the batches of the originals, which by then are gone."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import Dataset, Features, Image, List, Value, Video

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.collate.materialised_rows import check_size
from mmdatasets.errors import CollateError, MediaProcessorError, MMDatasetsError
from mmdatasets.features import PARQUET_OPTIONS
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.standins import build_standin
from mmdatasets.testing.video import VideoSpec, write_video

SIZES = [(320, 240), (90, 500), (640, 480)]


@pytest.fixture
def media(tmp_path) -> Path:
    """Photos, a video with sound and a recording, all in one folder."""
    folder = tmp_path / "media"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        pixels = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.jpg", quality=90)
    spec = VideoSpec(num_frames=40, rate=Fraction(8), width=160, height=96, format="matroska")
    write_video(folder / "clip.mkv", spec)
    write_video(folder / "loud.mkv", VideoSpec(num_frames=24, rate=Fraction(8), format="matroska", audio_codec="mp3"))
    write_audio(folder / "speech.mp3", 44_100, 3.2, 2)
    return folder


def chat(*kinds: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "".join(f"<{kind}>" for kind in kinds) + "What is it?"},
        {"role": "assistant", "content": "A pattern."},
    ]


def columns(*rows: dict[str, object]) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, []) for row in rows] for name in names}


def rows_of(batch) -> list[dict[str, object]]:
    batch = batch.to_pydict() if isinstance(batch, pa.Table) else batch
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def materialised(plugin, mapped: dict[str, object], **settings) -> list[dict[str, object]]:
    """The rows of a mapped batch that is a plain dict, materialised."""
    made = plugin.materialise(mapped, **settings)
    return rows_of({**mapped, **made})


def assert_same(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[name].dtype == value.dtype
            assert torch.equal(ours[name], value), name
        else:
            assert ours[name] == value


def check(plugin, mapped: dict[str, object], media: Path, **settings) -> list[dict[str, object]]:
    """Materialises rows, takes the originals away, and compares the batches."""
    expected = plugin.collator()(rows_of(mapped))
    rows = materialised(plugin, mapped, **settings)
    assert all(record["materialised"] for row in rows for record in row["media_info"])
    shutil.rmtree(media)
    assert_same(plugin.collator()(rows), expected)
    return rows


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "internvl", "pixtral"])
@pytest.mark.parametrize("budget", [None, 40_000], ids=["the processor's sizes", "a budget"])
def test_photos(family, budget, media):
    plugin = auto_plugin(build_processor(family), options=MediaOptions(image_max_pixels=budget))
    photos = [str(media / f"{number}.jpg") for number in range(3)]
    rows = [
        {"messages": chat("image", "image"), "images": photos[:2]},
        {"messages": chat("image"), "images": photos[2:]},
    ]
    made = check(plugin, plugin.transform(columns(*rows)), media)
    assert [len(row["images"]) for row in made] == [2, 1]


def test_parts_and_chosen_frames_of_a_video_and_lists_of_frames(media):
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(video_fps=4.0))
    clip = {"path": str(media / "clip.mkv")}
    frames = [PIL.Image.new("RGB", (120, 80), (40 * number, 9, 7)) for number in range(4)]
    videos = [{**clip, "start": 1.0, "end": 3.0}, {**clip, "indices": [0, 7, 7, 20]}, {"frames": frames, "fps": 2.0}]
    mapped = plugin.transform(columns(*({"messages": chat("video"), "videos": [video]} for video in videos)))
    rows = check(plugin, mapped, media)
    before = rows_of(mapped)
    assert [row["videos"] for row in rows] == [[None]] * 3
    for row, old in zip(rows, before, strict=True):
        assert row["media_info"] == [{**old["media_info"][0], "materialised": True}]
        assert len(row["video_frames"][0]) == len(old["media_info"][0]["frame_indices"])


def test_videos_with_their_sound_and_audio(media):
    plugin = auto_plugin(build_processor("qwen2_5_omni"), options=MediaOptions(use_audio_in_video=True))
    rows = [
        {
            "messages": chat("video", "audio"),
            "videos": [str(media / "loud.mkv")],
            "audios": [str(media / "speech.mp3")],
        },
        {"messages": chat("image"), "images": [str(media / "0.jpg")]},
        {"messages": chat("video"), "videos": [str(media / "clip.mkv")]},
    ]
    made = check(plugin, plugin.transform(columns(*rows)), media)
    assert made[0]["videos"][0]["bytes"][:4] == b"RIFF"
    assert made[2]["videos"] == [None]


def test_chunks_of_audio_become_items(media):
    options = MediaOptions(long_audio="chunk", audio_max_duration_s=1.0)
    plugin = auto_plugin(build_processor("qwen2_audio"), options=options)
    row = {"messages": chat("audio", "audio"), "audios": [str(media / "speech.mp3")] * 2}
    mapped = plugin.transform(columns(row))
    assert [record["item"] for record in rows_of(mapped)[0]["media_info"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    made = check(plugin, mapped, media)
    assert [record["item"] for record in made[0]["media_info"]] == list(range(8))
    assert made[0]["audios"][:4] == made[0]["audios"][4:]


def test_audio_is_exact_and_half_as_large_where_its_samples_are_integers(media, tmp_path):
    plugin = auto_plugin(build_processor("qwen2_audio"))
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 16_000, dtype=np.int16)
    soundfile.write(tmp_path / "int.wav", samples, 16_000, subtype="PCM_16")
    soundfile.write(media / "float.wav", np.array([1.7, -1e-9, 0.3] * 5_000, np.float32), 16_000, subtype="FLOAT")
    files = [str(tmp_path / "int.wav"), str(media / "float.wav"), str(media / "speech.mp3")]
    mapped = plugin.transform(columns(*({"messages": chat("audio"), "audios": [file]} for file in files)))
    made = check(plugin, mapped, media)
    sizes = [len(row["audios"][0]["bytes"]) for row in made]
    assert sizes[0] < 2 * 16_000 + 100
    assert sizes[1] > 4 * 15_000
    smaller = materialised(plugin, {name: values[:1] for name, values in mapped.items()}, quality=90)
    assert smaller[0]["audios"] == made[0]["audios"]


def test_rows_that_were_shrunk_keep_their_budget(media):
    processor = build_processor("qwen2_vl")
    plugin = auto_plugin(processor, max_length=150, on_overflow="shrink")
    rows = [{"messages": chat("image"), "images": [str(media / f"{number}.jpg")]} for number in (0, 2)]
    mapped = plugin.transform(columns(*rows))
    assert any(record["max_pixels"] for row in rows_of(mapped) for record in row["media_info"])
    check(plugin, mapped, media)


def test_preference_rows(media):
    plugin = auto_plugin(build_processor("qwen2_vl"))
    row = {
        "prompt": chat("image")[:1],
        "chosen": [{"role": "assistant", "content": "A pattern."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "images": [str(media / "0.jpg")],
    }
    mapped = plugin.preference_transform(columns(row))
    collator = plugin.preference_collator()
    expected = collator(rows_of(mapped))
    rows = materialised(plugin, mapped)
    shutil.rmtree(media)
    assert_same(collator(rows), expected)


def dataset_of(media: Path, plugin, copies: int = 1) -> Dataset:
    """A mapped dataset with photos and a video."""
    rows = [
        {"messages": chat("image"), "images": [str(media / "0.jpg")], "videos": []},
        {"messages": chat("video", "image"), "images": [str(media / "2.jpg")], "videos": [str(media / "clip.mkv")]},
    ] * copies
    source = Dataset.from_list(rows).cast_column("images", List(Image(decode=False)))
    return source.map(plugin.transform, batched=True, features=plugin.features(source.features))


def test_a_dataset_keeps_its_features_and_goes_through_parquet(media, tmp_path):
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(video_num_frames=4))
    mapped = dataset_of(media, plugin)
    expected = plugin.collator()(list(mapped))
    made = mapped.map(plugin.materialise, batched=True, features=plugin.materialised_features(mapped.features))
    assert made.features == mapped.features == plugin.materialised_features(mapped.features)
    shutil.rmtree(media)
    assert_same(plugin.collator()(list(made)), expected)
    made.to_parquet(tmp_path / "made.parquet")
    read = Dataset.from_parquet(str(tmp_path / "made.parquet"), cache_dir=str(tmp_path / "cache"))
    assert_same(plugin.collator()(list(read)), expected)
    pixels = made.cast_column("images", List(Image()))[0]["images"][0]
    assert pixels.size == (308, 252) or pixels.size == (320, 240)  # whichever is fewer pixels


def test_rows_of_the_schema_before_are_taken(media):
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(video_num_frames=4))
    mapped = dataset_of(media, plugin)
    info = dict(mapped.features["media_info"].feature)
    info.pop("materialised")
    rows = [
        {**row, "media_info": [{name: record[name] for name in info} for record in row["media_info"]]}
        for row in mapped
    ]
    old = Dataset.from_list(rows, features=Features({**mapped.features, "media_info": List(info)}))
    assert_same(plugin.collator()(list(old)), plugin.collator()(list(mapped)))
    made = old.map(plugin.materialise, batched=True)
    assert made.features == mapped.features == plugin.materialised_features(old.features)


def test_rows_are_packed_once_they_are_materialised(media):
    processor = build_processor("qwen2_vl")
    plugin = auto_plugin(processor, options=MediaOptions(video_num_frames=4))
    config = build_model("qwen2_vl", processor).config
    mapped = dataset_of(media, plugin)
    made = mapped.map(plugin.materialise, batched=True)
    packer = plugin.packer(max_length=2_000)
    packed, expected = packer.pack(made), packer.pack(mapped)
    collator = plugin.packed_collator(config)
    assert_same(collator(list(packed)), collator(list(expected)))
    with pytest.raises(CollateError, match="materialise the mapped dataset, and pack that"):
        plugin.materialise(expected.to_dict())


def test_the_same_media_is_stored_once(media, tmp_path):
    plugin = auto_plugin(
        build_processor("qwen2_vl"), options=MediaOptions(video_num_frames=4, image_max_pixels=20_000)
    )
    sizes = []
    for copies in (1, 20):
        mapped = dataset_of(media, plugin, copies)
        made = mapped.map(plugin.materialise, batched=True)
        path = tmp_path / f"{copies}.parquet"
        pq.write_table(made.data.table, path, **PARQUET_OPTIONS)
        sizes.append(path.stat().st_size)
        kept = mapped.map(plugin.materialise, batched=True, fn_kwargs={"store": str(tmp_path / "store")})
        files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
        assert len(files) == 2 + 4
    assert sizes[1] < sizes[0] + 20_000
    assert sizes[0] > 100_000
    expected = plugin.collator()(list(mapped)[:2])
    shutil.rmtree(media)
    assert_same(plugin.collator()(list(kept)[:2]), expected)


def test_streams_are_materialised(media):
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(video_num_frames=4))
    mapped = dataset_of(media, plugin)
    stream = mapped.to_iterable_dataset().map(plugin.materialise, batched=True, batch_size=1)
    expected = plugin.collator()(list(mapped))
    rows = list(stream)
    shutil.rmtree(media)
    assert_same(plugin.collator()(rows), expected)


def test_what_is_materialised_stays_so(media):
    plugin = auto_plugin(build_processor("qwen2_vl"), options=MediaOptions(video_num_frames=4))
    made = dataset_of(media, plugin).map(plugin.materialise, batched=True)
    shutil.rmtree(media)
    assert made.map(plugin.materialise, batched=True).to_dict() == made.to_dict()


def test_a_lossy_store_is_smaller_and_makes_inputs_of_the_same_shapes(media):
    plugin = auto_plugin(build_processor("llava_next"))
    photos = [str(media / f"{number}.jpg") for number in range(3)]
    mapped = plugin.transform(columns({"messages": chat("image", "image", "image"), "images": photos}))
    exact, lossy = (materialised(plugin, mapped, quality=quality) for quality in (None, 85))
    bytes_of = [sum(len(image["bytes"]) for image in rows[0]["images"]) for rows in (exact, lossy)]
    assert bytes_of[1] < bytes_of[0] / 5
    ours, theirs = plugin.collator()(lossy), plugin.collator()(exact)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["image_sizes"], theirs["image_sizes"])
    assert 0 < (ours["pixel_values"] - theirs["pixel_values"]).abs().mean() < 0.1


def test_processors_that_read_originals_are_refused_or_left_alone(media):
    plugin = auto_plugin(build_standin("minicpm_v"))
    mapped = plugin.transform(columns({"messages": chat("image"), "images": [str(media / "2.jpg")]}))
    with pytest.raises(
        MediaProcessorError, match=r"row 7, column 'images', index 0 \(.*2\.jpg\): .*reads the original"
    ) as error:
        plugin.materialise(mapped, [7])
    assert "unsupported='keep'" in str(error.value)
    assert materialised(plugin, mapped, unsupported="keep") == rows_of(mapped)


def test_what_is_resized_before_such_a_processor_is_stored(media):
    plugin = auto_plugin(build_standin("kimi_vl"), options=MediaOptions(image_max_pixels=30_000))
    rows = [{"messages": chat("image"), "images": [str(media / f"{number}.jpg")]} for number in (1, 2)]
    check(plugin, plugin.transform(columns(*rows)), media)


def test_errors_name_the_item(media):
    plugin = auto_plugin(build_processor("qwen2_vl"))
    photos = [str(media / "0.jpg"), str(media / "2.jpg")]
    mapped = plugin.transform(columns({"messages": chat("image", "image"), "images": photos}))
    content = Path(photos[1]).read_bytes()
    Path(photos[1]).write_bytes(content[: len(content) // 2])
    with pytest.raises(MMDatasetsError, match=r"row 3, column 'images', index 1 \(.*2\.jpg\)"):
        plugin.materialise(mapped, [3])


def test_other_options_at_the_collator_are_an_error(media):
    processor = build_processor("qwen2_vl")
    plugin = auto_plugin(processor)
    photos = [str(media / "2.jpg"), str(media / "1.jpg")]
    mapped = plugin.transform(columns(*({"messages": chat("image"), "images": [photo]} for photo in photos)))
    rows = [rows_of(mapped)[0], materialised(plugin, mapped)[1]]
    other = auto_plugin(processor, options=MediaOptions(image_max_pixels=20_000))
    with pytest.raises(MediaProcessorError, match=r"row 1 of the batch.*materialised by .*and is wanted by"):
        other.collator()(rows)


def test_damaged_files_are_an_error(media):
    plugin = auto_plugin(build_processor("qwen2_vl"))
    rows = materialised(
        plugin, plugin.transform(columns({"messages": chat("image"), "images": [str(media / "2.jpg")]}))
    )
    rows[0]["images"][0]["bytes"] = rows[0]["images"][0]["bytes"][:-100]
    with pytest.raises(MMDatasetsError, match=r"row 0 of the batch, column 'images', index 0 .*damaged"):
        plugin.collator()(rows)


def test_settings_and_rows_that_make_no_sense_are_errors(media):
    plugin = auto_plugin(build_processor("qwen2_vl"))
    mapped = plugin.transform(columns({"messages": chat("image"), "images": [str(media / "0.jpg")]}))
    for settings, message in (
        ({"quality": 0}, "from 1 to 100"),
        ({"quality": True}, "from 1 to 100"),
        ({"unsupported": "x"}, "'error' or 'keep'"),
    ):
        with pytest.raises(ValueError, match=message):
            plugin.materialise(mapped, **settings)
    with pytest.raises(CollateError, match="map the dataset with plugin"):
        plugin.materialise({"images": [[str(media / "0.jpg")]]})
    with pytest.raises(CollateError, match="row 0 of the batch: media_info does not describe"):
        plugin.materialise({**mapped, "media_info": [[]]})
    with pytest.raises(CollateError, match="map the dataset with plugin"):
        plugin.materialised_features(Features({"images": List(Image()), "videos": List(Video()), "n": Value("int8")}))
    with pytest.raises(MMDatasetsError, match="batch_size=250"):
        check_size(2**31, 1_000)
