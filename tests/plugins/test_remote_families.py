"""Families whose processor is code of its checkpoint: what the conformance suite does not ask of their stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaProcessorError, MMDatasetsError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.conformance import Scenario, Subject, run_cell
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.scenarios import Row
from mmdatasets.testing.scenarios import row as row_of
from mmdatasets.testing.specs import ImageSpec
from mmdatasets.testing.standins import build_standin, list_standins
from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.testing.standins.models import build_standin_model
from mmdatasets.testing.subjects import standin_subjects
from mmdatasets.types import ImageInfo
from tests.conftest import ImageFactory
from tests.oracle import Message

FAMILIES = {
    "kimi_vl": "kimi_vl",
    "minicpm_o": "minicpmv",
    "minicpm_v": "minicpmv",
    "moss_vl": "moss_vl",
    "youtu_vl": "youtu_vl",
}
Rows = tuple[list[list[Message]], list[list[tuple[int, int]]]]


def chat(*contents: str) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


# Beside what the conformance suite puts every family through: slices, single pixels, a system turn, any script.
SCENARIOS = (
    Scenario("sliced", (row_of([ImageSpec(1344, 896), "Large?"], ["Large — ünïcode 中文."]),)),
    Scenario("single pixels", (row_of([ImageSpec(1, 1), ImageSpec(3, 2)], ["Two specks."]),)),
    Scenario("extreme", (row_of([ImageSpec(60, 1500), ImageSpec(1700, 130), "This"], ["Tall and wide."]),)),
    Scenario(
        "system turn",
        (
            Row(
                [
                    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                    *row_of(["One?"], ["1"], ["And", ImageSpec(450, 449), "?"], ["2"]).messages,
                ],
                (ImageSpec(450, 449),),
            ),
        ),
    ),
)
MIXED: Rows = (
    [chat("No image", "Right."), chat("<image>", "One."), chat("None", "0"), chat("<image>\n<image>", "Two.")],
    [[], [(333, 222)], [], [(222, 333), (900, 100)]],
)
COUNTED: Rows = (
    [chat("<image><image>\n<image> hm", "Three."), chat("Only <image>, the longest text of both rows here", "1")],
    [[(100, 90), (640, 480), (30, 30)], [(700, 500)]],
)


@pytest.fixture(params=list_standins())
def standin(request: pytest.FixtureRequest) -> StandInProcessor:
    return build_standin(request.param)


def files(sizes: Sequence[Sequence[tuple[int, int]]], image_file: ImageFactory) -> list[list[Path]]:
    return [[image_file(*size, seed=index) for index, size in enumerate(row)] for row in sizes]


def map_rows(plugin: BasePlugin, chats: Sequence[Sequence[Message]], images: Sequence[Sequence[Path]]):
    dataset = datasets.Dataset.from_dict(
        {"messages": [list(one) for one in chats], "images": [[str(path) for path in row] for row in images]},
        features=datasets.Features(
            {"messages": datasets.Json(), "images": datasets.List(datasets.Image(decode=False))}
        ),
    )
    return dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))


def media_mask(plugin: BasePlugin, ids: object) -> np.ndarray:
    return np.asarray(ids) == plugin.engine.tokenizer.convert_tokens_to_ids(plugin.engine.runner.image_token)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("subject", standin_subjects(), ids=lambda subject: subject.name)
def test_further_scenarios_equal_the_published_call(subject: Subject, scenario: Scenario, media_folder: Path) -> None:
    cell = run_cell(subject, scenario, media_folder)
    assert cell.passed, cell
    assert not cell.not_run
    assert not {"token ids", "tensors", "labels", "logits", "stages", "media inputs"} & set(cell.skipped)


# --------------------------------------------------------------------------------------------- what is planned

sides = st.integers(1, 1200)
PLANNED = [name for name in list_standins() if name not in ("moss_vl", "minicpm_o")]
PLUGINS = {name: auto_plugin(build_standin(name)) for name in PLANNED}


@pytest.mark.parametrize("name", PLANNED)
@settings(max_examples=20)
@given(width=sides, height=sides)
@example(width=1, height=1)
@example(width=448, height=448)
@example(width=1, height=1200)
def test_the_plan_is_what_the_processor_makes(name: str, width: int, height: int) -> None:
    plugin = PLUGINS[name]
    image = torch.zeros((3, height, width), dtype=torch.uint8)
    outputs, expansions = plugin.process_images(plugin.engine, [[image]])
    assert plugin.engine.media.expand_one(ImageInfo(width, height)) == expansions[0]
    if name == "minicpm_v":
        assert len(outputs["pixel_values"][0]) == len(expansions[0].runs)


def test_youtu_equals_the_sizes_measured_on_the_checkpoint() -> None:
    # (height, width) -> patches, as a port reported them of the published processor.
    measured = {
        (224, 224): (14, 14),
        (330, 330): (22, 22),
        (2048, 2048): (128, 128),
        (1080, 1920): (68, 120),
        (3000, 4000): (166, 220),
        (330, 500): (22, 32),
        (100, 3000): (8, 188),
        (32, 32): (2, 2),
    }
    engine = PLUGINS["youtu_vl"].engine
    for (height, width), (rows, columns) in measured.items():
        assert engine.media.expand_one(ImageInfo(width, height)).runs == (rows * columns // 4,)


def test_minicpm_slices_a_photo_in_three_by_two() -> None:
    expansion = PLUGINS["minicpm_v"].engine.media.expand_one(ImageInfo(1344, 896))
    row = "<slice><unk></slice>" * 3
    assert expansion.text == f"<image><unk></image>{row}\n{row}"
    assert expansion.runs == (64,) * 7


def test_kimi_without_padding_is_planned_too() -> None:
    processor = build_standin("kimi_vl")
    processor.image_processor.pad_input = False
    plugin = auto_plugin(processor)
    for width, height in [(100, 75), (29, 43), (1500, 1400)]:
        image = torch.zeros((3, height, width), dtype=torch.uint8)
        assert (
            plugin.engine.media.expand_one(ImageInfo(width, height))
            == plugin.process_images(plugin.engine, [[image]])[1][0]
        )


@pytest.mark.parametrize(("name", "size"), [("kimi_vl", (8000, 20)), ("moss_vl", (201, 1))])
def test_sizes_that_the_processor_refuses_name_the_image(
    name: str, size: tuple[int, int], image_file: ImageFactory
) -> None:
    bad = image_file(*size)
    with pytest.raises(MediaProcessorError, match=f"column 'images', index 1 .*{bad.name}"):
        auto_plugin(build_standin(name)).transform(
            {"messages": [chat("<image><image>", "x")], "images": [[image_file(40, 40), bad]]}
        )


# ----------------------------------------------------------------------------------------------- what is special


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["minicpm_v", "minicpm_o"])
def test_image_bounds_hold_exactly_the_media_tokens(name: str, side: str, image_file: ImageFactory) -> None:
    chats, sizes = MIXED
    processor = build_standin(name)
    plugin = auto_plugin(processor)
    rows = map_rows(plugin, chats, files(sizes, image_file))
    data = plugin.collator(padding_side=side, pad_to_multiple_of=8)(list(rows))["data"]
    opening = {processor.tokenizer.im_start_id, processor.tokenizer.slice_start_id}
    for ids, bounds, slices in zip(data["input_ids"], data["image_bound"], data["pixel_values"], strict=True):
        inside = np.zeros(len(ids), dtype=bool)
        for start, end in bounds.tolist():
            assert end - start == 64
            assert int(ids[start - 1]) in opening
            inside[start:end] = True
        assert np.array_equal(inside, media_mask(plugin, ids))
        assert bounds.shape == (len(slices), 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_minicpm_positions_count_the_real_tokens(side: str, image_file: ImageFactory) -> None:
    chats, sizes = MIXED
    plugin = auto_plugin(build_standin("minicpm_v"))
    rows = map_rows(plugin, chats, files(sizes, image_file))
    data = plugin.collator(padding_side=side)(list(rows))["data"]
    for row, positions, mask in zip(rows, data["position_ids"], data["attention_mask"], strict=True):
        assert positions[mask.bool()].tolist() == list(range(row["length"]))
        assert not positions[~mask.bool()].any()


def test_minicpm_batches_go_through_the_trainer(image_file: ImageFactory, tmp_path: Path) -> None:
    chats, sizes = MIXED
    processor = build_standin("minicpm_v")
    plugin = auto_plugin(processor)
    rows = map_rows(plugin, chats, files(sizes, image_file))
    model = build_standin_model("minicpm_v", processor)
    before = model.vision.weight.detach().clone()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    result = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=plugin.collator()).train()
    assert np.isfinite(result.training_loss)
    assert not torch.equal(model.vision.weight, before)


def test_image_numbers_begin_anew_in_each_row(image_file: ImageFactory) -> None:
    chats, sizes = COUNTED
    plugin = auto_plugin(build_standin("minicpm_o"))
    for row, images in zip(map_rows(plugin, chats, files(sizes, image_file)), sizes, strict=True):
        text = plugin.engine.tokenizer.decode(row["input_ids"])
        assert [f"<image_id>{index}</image_id>" in text for index in range(4)] == [i < len(images) for i in range(4)]


def test_older_minicpm_is_refused() -> None:
    processor = build_standin("minicpm_v")
    processor.image_processor.version = 2.5
    with pytest.raises(MMDatasetsError, match=r"MiniCPM-V 2\.5 is not supported"):
        auto_plugin(processor).transform({"messages": [chat("a", "b")]})


def test_a_row_cut_through_an_image_is_refused(image_file: ImageFactory) -> None:
    plugin = auto_plugin(build_standin("minicpm_v"))
    row = dict(map_rows(plugin, [chat("a<image>", "b")], [[image_file(60, 60)]])[0])
    end = row["media_info"][0]["end"] - 1
    row |= {"input_ids": row["input_ids"][:end], "labels": row["labels"][:end]}
    with pytest.raises(MMDatasetsError, match="do not cut input_ids"):
        plugin.collator()([row])


def test_moss_tokens_see_images_before_them(image_file: ImageFactory) -> None:
    plugin = auto_plugin(build_standin("moss_vl"))
    rows = map_rows(plugin, [chat("a<image>b<image>", "c"), chat("d", "e")], [[image_file(60, 60)] * 2, []])
    batch = plugin.collator(padding_side="left", pad_to_multiple_of=8)(list(rows))
    hidden, places = batch["cross_attention_mask"][:, 0], np.flatnonzero(media_mask(plugin, batch["input_ids"][0]))
    assert hidden.shape[2] == 2
    for index, place in enumerate(places):
        assert hidden[0, :place, index].all()
        assert not hidden[0, place:, index].any()
    assert hidden[1].all()  # its blank image is seen by nothing


def test_control_tokens_of_users_stay_text(standin: StandInProcessor, image_file: ImageFactory) -> None:
    plugin = auto_plugin(standin)
    token = plugin.engine.runner.image_token
    row = map_rows(plugin, [chat(f"<image> is {token} here", "x")], [[image_file(60, 60)]])[0]
    assert media_mask(plugin, row["input_ids"]).sum() == row["media_info"][0]["num_tokens"]
    assert plugin.collator()([row])["input_ids"].shape == (1, row["length"])


def test_names_and_aliases() -> None:
    assert type(get_mm_plugin("minicpm_v")) is type(get_mm_plugin("minicpmv"))
    assert {name: auto_plugin(build_standin(name)).family for name in list_standins()} == FAMILIES
    assert type(auto_plugin(build_processor("kimi_k25"))) is type(get_mm_plugin("kimi_vl"))
