"""Rows whose media is shrunk: planned and collated as the processor does with that budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from mmdatasets import MediaOptions, ShrinkFloor, auto_plugin
from mmdatasets.errors import CollateError, MMDatasetsError
from mmdatasets.media import image as image_module
from mmdatasets.planning.sizes import size_between
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.standins import build_standin
from mmdatasets.testing.video import VideoSpec, write_video
from mmdatasets.transforms.row_log import read_row_log
from tests.conftest import ImageFactory
from tests.oracle import Message, assert_same_tensors, processor_batch

STEP = 2 ** (1 / 4)
TAKE_NO_LESS = ("gemma3",)
"""They make as many tokens of every image."""
FLOOR = ShrinkFloor(image_pixels=56 * 56, video_pixels=56 * 56, video_frames=2)


@cache
def processor_of(family: str):
    processor = build_standin(family) if family == "minicpm_v" else build_processor(family)
    if family == "qwen2_5_omni":  # its spectrograms of five minutes take long to make
        processor.feature_extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=4)
    return processor


def chat(*kinds: str) -> list[Message]:
    placeholders = "".join(f"<{kind}>" for kind in kinds)
    return [{"role": "user", "content": f"{placeholders}What?"}, {"role": "assistant", "content": "This and that."}]


def row_of(plugin: BasePlugin, messages: list[Message], **media: Sequence[Path]) -> dict[str, object] | None:
    columns = {name: [[str(file) for file in files]] for name, files in media.items()}
    made = plugin.transform({"messages": [messages], **columns})
    return {name: values[0] for name, values in made.items()} if made["input_ids"] else None


def bounds_of(row: dict[str, object]) -> dict[str, int]:
    names = ("image_max_pixels", "video_max_pixels", "video_max_frames")
    return {name: row["fit"][name] for name in names if row["fit"][name] is not None}


def as_options(row: dict[str, object]) -> MediaOptions:
    return MediaOptions(**bounds_of(row))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen2_5_omni", "glm4v"])
@settings(max_examples=10)
@given(
    sizes=st.lists(st.tuples(st.integers(60, 700), st.integers(60, 700)), min_size=1, max_size=3),
    share=st.floats(0.05, 1.0),
)
def test_a_shrunk_row_is_what_the_processor_makes_with_its_budget(
    family: str, sizes: list[tuple[int, int]], share: float, image_file: ImageFactory
) -> None:
    processor = processor_of(family)
    files = [image_file(*size) for size in sizes]
    messages = chat(*["image"] * len(files))
    whole = row_of(auto_plugin(processor), messages, images=files)
    max_length = max(40, int(whole["length"] * share))
    plugin = auto_plugin(processor, max_length=max_length, on_overflow="shrink", shrink_floor=FLOOR)
    row = row_of(plugin, messages, images=files)
    if whole["length"] <= max_length:
        assert row["fit"]["outcome"] == "kept"
        assert row["input_ids"] == whole["input_ids"]
        return
    if row is None:
        floor = auto_plugin(processor, options=MediaOptions(image_max_pixels=FLOOR.image_pixels))
        assert row_of(floor, messages, images=files)["length"] > max_length
        return
    budget = row["fit"]["image_max_pixels"]
    assert FLOOR.image_pixels <= budget
    assert row["length"] <= max_length < row["fit"]["original_length"] == whole["length"]
    assert {record["max_pixels"] for record in row["media_info"]} == {budget}
    own = {"shortest_edge": processor.image_processor.size["shortest_edge"]}
    own["longest_edge"] = processor.image_processor.size["longest_edge"]
    times = auto_plugin(processor).frames_of_image(processor)
    theirs = processor_batch(
        processor, [messages], [files], images_kwargs={"size": size_between(own, None, budget * times)}
    )
    batch = plugin.collator()([row])
    for name in theirs:
        assert torch.equal(batch[name], theirs[name]), name


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "internvl", "pixtral", "gemma3", "minicpm_v"])
def test_a_shrunk_row_is_that_of_a_plugin_with_these_options(family: str, image_file: ImageFactory) -> None:
    files = [image_file(900, 700), image_file(500, 900)]
    messages = chat("image", "image")
    processor = processor_of(family)
    whole = row_of(auto_plugin(processor), messages, images=files)
    outcomes = set()
    for max_length in (whole["length"] * 9 // 10, whole["length"] // 2, whole["length"] // 4, 5):
        plugin = auto_plugin(processor, max_length=max_length, on_overflow="shrink", shrink_floor=FLOOR)
        row = row_of(plugin, messages, images=files)
        outcomes.add(row is not None)
        if row is None:
            continue
        other = auto_plugin(processor, options=as_options(row))
        same = row_of(other, messages, images=files)
        assert row["input_ids"] == same["input_ids"]
        assert row["labels"] == same["labels"]
        assert [{**record, "max_pixels": None} for record in row["media_info"]] == same["media_info"]
        ours, theirs = plugin.collator()([row]), other.collator()([same])
        assert_equal(ours, theirs)
        # The next larger of the budgets does not fit.
        bound = row["fit"]["image_max_pixels"]
        larger = auto_plugin(processor, options=MediaOptions(image_max_pixels=int(bound * STEP) + 1))
        assert row_of(larger, messages, images=files)["length"] > max_length
    assert False in outcomes
    assert (True in outcomes) == (family not in TAKE_NO_LESS)


@pytest.mark.parametrize(
    ("family", "max_length", "setting", "budget"),
    [
        ("internvl", 1200, {"max_patches": 3}, 3 * 448**2),
        ("idefics3", 1000, {"size": {"longest_edge": 728}}, 728**2),
        ("gemma4", 200, {"max_soft_tokens": 140}, 140 * 48**2),
    ],
)
def test_processors_that_enlarge_images_make_fewer_tiles(
    family: str, max_length: int, setting: dict[str, object], budget: int, image_file: ImageFactory
) -> None:
    """Of an image that is smaller than a tile, too; and the bound holds."""
    processor, files = processor_of(family), [image_file(330, 240)]
    plugin = auto_plugin(processor, max_length=max_length, on_overflow="shrink")
    row = row_of(plugin, chat("image"), images=files)
    assert row["length"] <= max_length < row["fit"]["original_length"]
    assert budget <= row["fit"]["image_max_pixels"] < budget * 2.25
    theirs = processor_batch(processor, [chat("image")], [files], images_kwargs=setting)
    assert_same_tensors(plugin.collator()([row]), theirs)
    same = row_of(auto_plugin(processor, options=MediaOptions(image_max_pixels=budget)), chat("image"), images=files)
    assert same["input_ids"] == row["input_ids"]


def test_rows_that_cannot_be_shrunk_say_why(image_file: ImageFactory, tmp_path: Path) -> None:
    long = [{"role": "user", "content": "word " * 300}, *chat()[1:]]
    for family, messages, media, reason in (
        ("gemma3", chat("image"), [image_file(900, 700)], "media_of_one_size"),
        ("gemma3", long, [], "nothing_to_shrink"),
        ("qwen2_vl", chat("image"), [image_file(900, 700)], "too_long_at_floor"),
    ):
        log = tmp_path / f"{family}-{reason}"
        plugin = auto_plugin(processor_of(family), max_length=50, on_overflow="shrink", row_log=log)
        assert row_of(plugin, messages, images=media) is None
        assert read_row_log(log)["reason"].to_pylist() == [reason]


def assert_equal(ours: object, theirs: object) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif hasattr(ours, "keys"):
        assert set(ours) == set(theirs)
        for name in ours:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    elif isinstance(ours, np.ndarray):
        assert np.array_equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    spec = VideoSpec(num_frames=40, width=320, height=240, audio_codec="aac")
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", spec)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    return write_audio(tmp_path_factory.mktemp("speech") / "speech.wav", 16_000, 1.5)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "qwen2_5_omni"])
@pytest.mark.parametrize("sound", [False, True])
def test_frames_and_their_pixels_are_lowered_alike(
    family: str, sound: bool, clip: Path, image_file: ImageFactory
) -> None:
    if sound and family != "qwen2_5_omni":
        return  # no other of these hears
    options = {"video_sampling": "uniform", "video_num_frames": 24, "use_audio_in_video": sound}
    processor = processor_of(family)
    media = {"images": [image_file(500, 400)], "videos": [clip]}
    messages = chat("video", "image")
    whole = row_of(auto_plugin(processor, options=MediaOptions(**options)), messages, **media)
    plugin = auto_plugin(
        processor,
        options=MediaOptions(**options),
        max_length=whole["length"] // 3,
        on_overflow="shrink",
        shrink_floor=FLOOR,
    )
    row = row_of(plugin, messages, **media)
    frames = next(len(record["frame_indices"]) for record in row["media_info"] if record["modality"] == "video")
    assert 2 <= frames <= row["fit"]["video_max_frames"] < 24
    other = auto_plugin(processor, options=MediaOptions(**options, **bounds_of(row)))
    same = row_of(other, messages, **media)
    assert row["input_ids"] == same["input_ids"]
    assert_equal(plugin.collator()([row]), other.collator()([same]))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_omni", "qwen3_omni_moe", "minicpm_v"])
def test_rows_of_several_budgets_in_a_batch(family: str, image_file: ImageFactory, speech: Path) -> None:
    """Each row's part of the batch is what the row makes alone, the tokens between them included."""
    processor = processor_of(family)
    hears = "omni" in family
    shapes = [(900, 700), (60, 60), (500, 900), (900, 700), None]
    plugin = auto_plugin(processor, max_length=260, on_overflow="shrink", shrink_floor=FLOOR)
    rows = []
    for index, shape in enumerate(shapes):
        audio = hears and index % 2 == 0
        kinds = [*(["image"] if shape else []), *(["audio"] if audio else [])]
        media = {"images": [image_file(*shape)] if shape else []}
        if hears:
            media["audios"] = [speech] if audio else []
        rows.append(row_of(plugin, chat(*kinds), **media))
    assert len({record["max_pixels"] for row in rows for record in row["media_info"]}) > 1
    together = plugin.collator()(rows)
    alone = [plugin.collator()([row]) for row in rows]
    together, alone = together.get("data", together), [one.get("data", one) for one in alone]
    name = "pixel_values"
    parts = [one[name] for one in alone if name in one]
    if family == "minicpm_v":
        assert_equal(together[name], [part[0] for part in parts])
    else:
        assert torch.equal(together[name], torch.cat(parts))
        grids = [one["image_grid_thw"] for one in alone if name in one]
        assert torch.equal(together["image_grid_thw"], torch.cat(grids))
    if hears:
        assert len(together["input_features"]) == 3


def test_packed_rows_keep_the_budget_of_each(image_file: ImageFactory) -> None:
    plugin = auto_plugin(processor_of("qwen2_vl"), max_length=150, on_overflow="shrink", shrink_floor=FLOOR)
    files = [image_file(*size) for size in [(900, 700), (60, 60), (300, 900)]]
    columns = {"messages": [chat("image")] * 3, "images": [[str(file)] for file in files]}
    source = datasets.Dataset.from_dict(columns)
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    packed = plugin.packer(max_length=600).pack(mapped)
    assert len(packed) == 1
    assert len({record["max_pixels"] for record in packed[0]["media_info"]}) > 1
    model = build_model("qwen2_vl", processor_of("qwen2_vl"))
    batch = plugin.packed_collator(model.config)([packed[0]])
    order = [record["width"] for record in packed[0]["media_info"]]
    rows = sorted(mapped, key=lambda row: order.index(row["media_info"][0]["width"]))
    alone = [plugin.collator()([row])["pixel_values"] for row in rows]
    assert torch.equal(batch["pixel_values"], torch.cat(alone))
    with pytest.raises(CollateError, match="row 0 of the batch: its images were planned with several budgets"):
        plugin.collator()([packed[0]])


def test_nothing_is_decoded_to_shrink(image_file: ImageFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    plugin = auto_plugin(processor_of("qwen2_vl"), max_length=120, on_overflow="shrink")
    monkeypatch.setattr("mmdatasets.transforms.media.decode_image", fail)
    monkeypatch.setattr(image_module, "decode_image", fail)
    row = row_of(plugin, chat("image"), images=[image_file(900, 700)])
    assert row["fit"]["outcome"] == "shrunk"


def test_the_floor_holds_and_so_do_the_options_own_minimum(image_file: ImageFactory) -> None:
    files = [image_file(900, 700)]
    plugin = auto_plugin(processor_of("qwen2_vl"), max_length=60, on_overflow="shrink")
    assert row_of(plugin, chat("image"), images=files) is None  # 224 x 224 pixels are 64 tokens
    low = auto_plugin(processor_of("qwen2_vl"), max_length=60, on_overflow="shrink", shrink_floor=FLOOR)
    assert row_of(low, chat("image"), images=files)["length"] <= 60
    bound = MediaOptions(image_min_pixels=224 * 224)
    kept = auto_plugin(
        processor_of("qwen2_vl"), max_length=60, on_overflow="shrink", shrink_floor=FLOOR, options=bound
    )
    assert row_of(kept, chat("image"), images=files) is None
    assert row_of(low, [{"role": "user", "content": "word " * 99}, *chat()[1:]]) is None


def test_classes_that_process_media_themselves_cannot_shrink(image_file: ImageFactory) -> None:
    class Writes(Qwen2VLPlugin):
        def process_messages(self, messages, images, videos, audios, processor):
            return super().process_messages(messages, images, videos, audios, processor)

    class Makes(Qwen2VLPlugin):
        def get_mm_inputs(self, *args):
            return super().get_mm_inputs(*args)

    processor, files = processor_of("qwen2_vl"), [image_file(900, 700)]
    for kind, method in ((Writes, "process_messages"), (Makes, "get_mm_inputs")):
        with pytest.raises(MMDatasetsError, match=f"on_overflow='shrink' .* of which the {method} of {kind.__name__}"):
            kind(processor=processor, max_length=120, on_overflow="shrink")
    row = row_of(auto_plugin(processor, max_length=120, on_overflow="shrink"), chat("image"), images=files)
    with pytest.raises(CollateError, match="row 0 of the batch: it was shrunk"):
        Makes(processor=processor).collator()([row])
