"""Families whose processor is code of its checkpoint: equal to what a stand-in of the published interface makes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from datasets.fingerprint import Hasher
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaProcessorError, MMDatasetsError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.media import cut_pixel_data
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.standins import build_standin, list_standins
from mmdatasets.testing.standins.base import StandInProcessor
from mmdatasets.types import ImageInfo
from tests.conftest import ImageFactory
from tests.oracle import Message, assert_same_tensors, oracle_messages, processor_batch

FAMILIES = {
    "kimi_vl": "kimi_vl",
    "minicpm_o": "minicpmv",
    "minicpm_v": "minicpmv",
    "moss_vl": "moss_vl",
    "youtu_vl": "youtu_vl",
}
TEXT = ("input_ids", "attention_mask")
OWN = ("labels", "position_ids")
TAG = "(<image>./</image>)"

Rows = tuple[list[list[Message]], list[list[tuple[int, int]]]]


def chat(*contents: str) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


SCENARIOS: dict[str, Rows] = {
    "one image": ([chat("<image>What is it?", "A cat.")], [[(300, 200)]]),
    "two images": ([chat("<image> and\n<image>: what differs?", "Nothing.")], [[(300, 200), (520, 610)]]),
    "tall": ([chat("This<image>", "Tall.")], [[(60, 1500)]]),
    "wide": ([chat("This<image>", "Wide.")], [[(1700, 130)]]),
    "tiny": ([chat("<image><image>", "Two specks.")], [[(1, 1), (3, 2)]]),
    "large": ([chat("<image>", "Large — ünïcode 中文.")], [[(1344, 896)]]),
    "several turns": (
        [[{"role": "system", "content": "Be brief."}, *chat("<image>One?", "1", "None?", "0", "And <image>?", "2")]],
        [[(450, 449), (29, 500)]],
    ),
    "rows of different counts": (
        [chat("<image><image>\n<image> hm", "Three."), chat("Only <image>, the longest text of both rows here", "1")],
        [[(100, 90), (640, 480), (30, 30)], [(700, 500)]],
    ),
    "text only": ([chat("Hello", "Hi."), chat("How are you, on this fine day?", "Well.")], [[], []]),
    "mixed": (
        [chat("No image", "Right."), chat("<image>", "One."), chat("None", "0"), chat("<image>\n<image>", "Two.")],
        [[], [(333, 222)], [], [(222, 333), (900, 100)]],
    ),
}


@pytest.fixture(params=list_standins())
def standin(request: pytest.FixtureRequest) -> StandInProcessor:
    return build_standin(request.param)


def _name(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["standin"])


def is_minicpm(processor: StandInProcessor) -> bool:
    return type(processor).__name__.startswith("MiniCPM")


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


def published_call(
    processor: StandInProcessor, chats: Sequence[Sequence[Message]], images: Sequence[Sequence[Path]]
) -> Mapping[str, Any]:
    """The processor's own call on the rendered text and the opened images."""
    opened = [[PIL.Image.open(path).convert("RGB") for path in row] for row in images]
    if is_minicpm(processor):
        tagged = [[{**m, "content": m["content"].replace("<image>", TAG)} for m in one] for one in chats]
        texts = [processor.tokenizer.apply_chat_template(one, tokenize=False) for one in tagged]
        return processor(texts, opened)
    parts = [oracle_messages(one, row) for one, row in zip(chats, images, strict=True)]
    texts = [processor.apply_chat_template(one, tokenize=False) for one in parts]
    flat = [image for row in opened for image in row]
    return processor(images=flat or None, text=texts, padding=True, return_tensors="pt")


def collate(plugin: BasePlugin, rows: Sequence[Mapping[str, Any]], **options: Any) -> Mapping[str, Any]:
    """The batch; of MiniCPM, what the model takes in `data`, with the labels."""
    processor = plugin.engine.runner.processor
    side = "left" if is_minicpm(processor) else "right"
    batch = plugin.collator(padding_side=side, **options)(list(rows))
    if not is_minicpm(processor):
        return batch
    assert set(batch) == {"data", "input_ids", "attention_mask", "labels"}
    assert all(batch[name] is batch["data"][name] for name in TEXT)
    return {**batch["data"], "labels": batch["labels"]}


def assert_same(ours: object, theirs: object, name: str) -> None:
    """Equal in structure, types, shapes and values."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor), name
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert torch.equal(ours, theirs), name
    elif isinstance(theirs, list):
        assert isinstance(ours, list), name
        assert len(ours) == len(theirs), name
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other, name)
    else:
        assert ours == theirs, name


def media_mask(plugin: BasePlugin, ids: object) -> np.ndarray:
    return np.asarray(ids) == plugin.engine.tokenizer.convert_tokens_to_ids(plugin.engine.runner.image_token)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_batches_equal_the_published_call(
    scenario: str, standin: StandInProcessor, image_file: ImageFactory, request: pytest.FixtureRequest
) -> None:
    chats, sizes = SCENARIOS[scenario]
    images = files(sizes, image_file)
    plugin = auto_plugin(standin)
    assert plugin.family == FAMILIES[_name(request)]
    rows = map_rows(plugin, chats, images)
    ours, theirs = collate(plugin, rows), published_call(build_standin(_name(request)), chats, images)
    mask = ours["attention_mask"].bool()
    assert torch.equal(mask, theirs["attention_mask"].bool())
    assert torch.equal(ours["input_ids"][mask], theirs["input_ids"][mask].to(torch.int64))
    assert set(ours) - {*TEXT, *OWN} == set(theirs) - {*TEXT}
    for name in set(theirs) - {*TEXT}:
        assert_same(ours[name], theirs[name], name)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_the_vision_tower_makes_fits_the_places(
    scenario: str, standin: StandInProcessor, image_file: ImageFactory
) -> None:
    chats, sizes = SCENARIOS[scenario]
    plugin = auto_plugin(standin)
    rows = map_rows(plugin, chats, files(sizes, image_file))
    placed = [int(media_mask(plugin, row["input_ids"]).sum()) for row in rows]
    assert placed == [sum(info["num_tokens"] for info in row["media_info"]) for row in rows]
    batch = collate(plugin, rows)
    if is_minicpm(standin):
        assert placed == [64 * len(slices) for slices in batch["pixel_values"]]
        assert [len(size) for size in batch["tgt_sizes"]] == [len(slices) for slices in batch["pixel_values"]]
    elif plugin.family == "moss_vl":
        assert placed == [len(row) for row in sizes]
        assert batch["media_nums_per_sample"] == [len(row) or 1 for row in sizes]
        assert int(batch["grid_thw"].prod(dim=1).sum()) == len(batch["pixel_values"])
    elif any(sizes):
        grids = batch["image_grid_hws" if plugin.family == "kimi_vl" else "spatial_shapes"]
        assert sum(placed) == int((grids.prod(dim=1) // 4).sum())


@pytest.mark.parametrize("scenario", ["several turns", "mixed"])
def test_labels_are_the_answers_and_never_media(
    scenario: str, standin: StandInProcessor, image_file: ImageFactory
) -> None:
    chats, sizes = SCENARIOS[scenario]
    plugin = auto_plugin(standin)
    for row, messages in zip(map_rows(plugin, chats, files(sizes, image_file)), chats, strict=True):
        labels, ids = np.asarray(row["labels"]), np.asarray(row["input_ids"])
        assert not (labels[media_mask(plugin, ids)] != -100).any()
        for info in row["media_info"]:
            assert (labels[info["start"] : info["end"]] == -100).all()
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        trained = plugin.engine.tokenizer.decode(labels[labels != -100])
        end = "<|im_end|>" if plugin.family == "kimi_vl" else "<|im_end|>\n"
        assert trained == "".join(answer + end for answer in answers)


def test_no_pixel_is_decoded_by_map(standin: StandInProcessor, image_file: ImageFactory, tmp_path: Path) -> None:
    chats, sizes = SCENARIOS["rows of different counts"]
    images = files(sizes, image_file)
    cut = [[tmp_path / path.name for path in row] for row in images]
    for row, stumps in zip(images, cut, strict=True):
        for path, stump in zip(row, stumps, strict=True):
            stump.write_bytes(cut_pixel_data(path.read_bytes()))
    plugin = auto_plugin(standin)
    assert map_rows(plugin, chats, cut)["input_ids"] == map_rows(plugin, chats, images)["input_ids"]
    with pytest.raises(MMDatasetsError, match="decoded"):
        collate(plugin, map_rows(plugin, chats, cut))


def test_the_plugin_pickles_and_keeps_its_fingerprint(standin: StandInProcessor, image_file: ImageFactory) -> None:
    chats, sizes = SCENARIOS["mixed"]
    images = files(sizes, image_file)
    plugin = auto_plugin(standin)
    before = Hasher.hash(plugin)
    rows = map_rows(plugin, chats, images)
    assert Hasher.hash(plugin) == before
    copied = pickle.loads(pickle.dumps(plugin))
    assert Hasher.hash(copied) == before
    assert map_rows(copied, chats, images)["input_ids"] == rows["input_ids"]
    ours, theirs = collate(copied, rows), collate(plugin, rows)
    for name in theirs:
        assert_same(ours[name], theirs[name], name)


def test_the_stages_one_by_one_give_the_same(standin: StandInProcessor, image_file: ImageFactory) -> None:
    chats, sizes = SCENARIOS["several turns"]
    images = files(sizes, image_file)
    plugin = auto_plugin(standin)
    messages = plugin.process_messages(chats[0], images[0], [], [], None)
    template = standin.tokenizer if is_minicpm(standin) else standin
    ids = standin.tokenizer.encode(template.apply_chat_template(messages, tokenize=False))
    expected = published_call(standin, chats, images)
    assert ids == expected["input_ids"][0].tolist()
    inputs = plugin.get_mm_inputs(images[0], [], [], [2], [0], [0], [ids], None)
    assert set(inputs) == set(expected) - {*TEXT}
    for name in inputs:
        assert_same(inputs[name], expected[name], name)


def test_a_batch_without_media_can_get_a_blank_image(standin: StandInProcessor, image_file: ImageFactory) -> None:
    plugin = auto_plugin(standin)
    rows = map_rows(plugin, *SCENARIOS["text only"])
    batch = collate(plugin, rows, ensure_media=True)
    assert len(batch["pixel_values"])
    media = media_mask(plugin, batch["input_ids"])
    assert media.any()
    assert not batch["attention_mask"].numpy()[media].any()
    assert (batch["labels"].numpy()[media] == -100).all()


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
    chats, sizes = SCENARIOS["mixed"]
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
    chats, sizes = SCENARIOS["mixed"]
    plugin = auto_plugin(build_standin("minicpm_v"))
    rows = map_rows(plugin, chats, files(sizes, image_file))
    data = plugin.collator(padding_side=side)(list(rows))["data"]
    for row, positions, mask in zip(rows, data["position_ids"], data["attention_mask"], strict=True):
        assert positions[mask.bool()].tolist() == list(range(row["length"]))
        assert not positions[~mask.bool()].any()


class PublishedForward(torch.nn.Module):
    """The interface of MiniCPM-V's forward: `data` with the media, everything else for the text model."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocab_size, 8)
        self.see = torch.nn.Linear(3 * 14 * 14, 8)

    def forward(self, data: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        embedded = self.embed(data["input_ids"])
        rows = []
        for row, bounds, slices in zip(embedded, data["image_bound"], data["pixel_values"], strict=True):
            for (start, end), part in zip(bounds.tolist(), slices, strict=True):
                patches = part.unflatten(2, (-1, 14)).permute(2, 0, 1, 3).flatten(1)
                feature = self.see(patches).mean(dim=0, keepdim=True)
                row = torch.cat([row[:start], feature.expand(end - start, -1), row[end:]])  # noqa: PLW2901
            rows.append(row)
        logits = torch.stack(rows).cumsum(dim=1) @ self.embed.weight.T  # each token sees those before it
        assert data["position_ids"].shape == kwargs["attention_mask"].shape == data["input_ids"].shape
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), kwargs["labels"][:, 1:].flatten())
        return {"loss": loss}


def test_minicpm_batches_go_through_the_trainer(image_file: ImageFactory, tmp_path: Path) -> None:
    chats, sizes = SCENARIOS["mixed"]
    processor = build_standin("minicpm_v")
    plugin = auto_plugin(processor)
    rows = map_rows(plugin, chats, files(sizes, image_file))
    model = PublishedForward(len(processor.tokenizer))
    before = model.see.weight.detach().clone()
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
    assert not torch.equal(model.see.weight, before)


def test_image_numbers_begin_anew_in_each_row(image_file: ImageFactory) -> None:
    chats, sizes = SCENARIOS["rows of different counts"]
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


def test_kimi_k2_5_is_of_the_family_too(image_file: ImageFactory) -> None:
    processor = build_processor("kimi_k25")
    plugin = auto_plugin(processor)
    assert type(plugin) is type(get_mm_plugin("kimi_vl"))
    chats, images = [chat("<image> and <image>", "x")], [[image_file(100, 80), image_file(40, 200)]]
    rows = map_rows(plugin, chats, images)
    assert_same_tensors(plugin.collator()(list(rows)), processor_batch(processor, chats, images))


def test_names_and_aliases() -> None:
    assert type(get_mm_plugin("minicpm_v")) is type(get_mm_plugin("minicpmv"))
