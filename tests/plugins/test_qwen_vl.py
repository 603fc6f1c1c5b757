"""Both Qwen generations: ids, tensors and labels equal those of the processor and of the published templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import ProcessorMixin

from mmdatasets import MediaOptions, auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaProcessorError
from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from mmdatasets.types import ImageInfo
from tests.conftest import QWEN_FAMILIES, ImageFactory
from tests.oracle import Message, assert_same_tensors, oracle_messages, part, processor_batch

PROCESSORS = {name: build_processor(name) for name in QWEN_FAMILIES}


def map_rows(plugin: BasePlugin, chats: Sequence[Sequence[Message]], images: Sequence[Sequence[str | Path]]):
    dataset = datasets.Dataset.from_dict(
        {"messages": [list(chat) for chat in chats], "images": [[str(path) for path in row] for row in images]},
        features=datasets.Features(
            {"messages": datasets.Json(), "images": datasets.List(datasets.Image(decode=False))}
        ),
    )
    return dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))


def user(content: object) -> Message:
    return {"role": "user", "content": content}


def assistant(content: object) -> Message:
    return {"role": "assistant", "content": content}


texts = st.text(st.characters(codec="utf-8", exclude_characters="<\U0010fff0\U0010fff1"), min_size=1, max_size=30)


# Bounds of width and height. Large images cost most of a second each, so they are drawn seldom.
bounds = st.sampled_from([(400, 400)] * 30 + [(2000, 2000)] * 9 + [(6000, 4000)])


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Sizes from 1x1 to 6000x4000 whose aspect ratio the processors accept (below 200)."""
    widest, highest = draw(bounds)
    width = draw(st.integers(1, widest))
    return width, draw(st.integers(-(-width // 199), min(highest, width * 199)))


@st.composite
def chats(draw: st.DrawFn) -> tuple[list[Message], list[tuple[int, int]]]:
    """A conversation of 1-3 turns, as strings with placeholders or as typed parts, and the sizes of its 0-5 images.

    The sizes are in the order in which the turns have the images.
    """
    num_images, turns = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    homes = [draw(st.integers(0, turns - 1)) for _ in range(num_images)]
    typed = draw(st.booleans())
    images: list[tuple[int, int]] = []
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(texts)})
    for turn in range(turns):
        here = homes.count(turn)
        images += [draw(sizes()) for _ in range(here)]
        pieces = [draw(texts) for _ in range(here + 1)]
        if typed:
            content: object = [part("text", text=pieces[0])]
            for text in pieces[1:]:
                content += [part("image"), part("text", text=text)]
        else:
            content = "<image>".join(pieces)
        messages += [user(content), assistant(draw(texts))]
    return messages, images


@pytest.mark.parametrize("name", QWEN_FAMILIES)
@settings(max_examples=12)
@given(batch=st.lists(chats(), min_size=1, max_size=3))
def test_batches_equal_the_processor(name: str, batch: list, image_file: ImageFactory) -> None:
    processor = PROCESSORS[name]
    conversations = [messages for messages, _ in batch]
    images = [[image_file(*size, seed=index) for index, size in enumerate(row)] for _, row in batch]
    plugin = auto_plugin(processor)
    mapped = map_rows(plugin, conversations, images)
    ours = plugin.collator()([mapped[index] for index in range(len(mapped))])
    assert_same_tensors(ours, processor_batch(processor, conversations, images))


@pytest.mark.parametrize("name", QWEN_FAMILIES)
@settings(max_examples=12)
@given(batch=st.lists(chats(), min_size=1, max_size=2), low=st.integers(1, 200_000), factor=st.integers(2, 20))
def test_pixel_budget_equals_the_processor_with_that_size(
    name: str, batch: list, low: int, factor: int, image_file: ImageFactory
) -> None:
    processor = PROCESSORS[name]
    high = max(low * factor, 32 * 32)
    conversations = [messages for messages, _ in batch]
    images = [[image_file(*size, seed=index) for index, size in enumerate(row)] for _, row in batch]
    plugin = auto_plugin(processor, options=MediaOptions(image_min_pixels=low, image_max_pixels=high))
    mapped = map_rows(plugin, conversations, images)
    ours = plugin.collator()([mapped[index] for index in range(len(mapped))])
    size = {"shortest_edge": low, "longest_edge": high}
    assert_same_tensors(ours, processor_batch(processor, conversations, images, images_kwargs={"size": size}))


@pytest.mark.parametrize("name", QWEN_FAMILIES)
def test_huge_and_tiny_images_equal_the_processor(name: str, image_file: ImageFactory) -> None:
    processor = PROCESSORS[name]
    images = [[image_file(6000, 4000), image_file(1, 1)], [image_file(1, 190), image_file(4000, 21)]]
    conversations = [[user("<image> and <image>"), assistant("x")], [user("<image><image>"), assistant("y")]]
    plugin = auto_plugin(processor)
    mapped = map_rows(plugin, conversations, images)
    assert_same_tensors(plugin.collator()(list(mapped)), processor_batch(processor, conversations, images))


@pytest.mark.parametrize("name", QWEN_FAMILIES)
@settings(max_examples=60)
@given(width=st.integers(1, 8000), height=st.integers(1, 8000), low=st.none() | st.integers(1, 10**6))
@example(width=1, height=1, low=None)
@example(width=200, height=1, low=None)
@example(width=6000, height=4000, low=None)
def test_closed_form_equals_the_dry_run(name: str, width: int, height: int, low: int | None) -> None:
    processor = PROCESSORS[name]
    high = None if low is None else max(low * 3, 1024)
    plugin = auto_plugin(processor, options=MediaOptions(image_min_pixels=low, image_max_pixels=high))
    runner = ProcessorRunner(processor, plugin.processor_kwargs(processor, plugin.options))
    try:
        expected = runner.plan([ImageInfo(width, height)])[0]
    except MediaProcessorError:
        with pytest.raises(MediaProcessorError):
            plugin.engine.media.expand_one(ImageInfo(width, height))
    else:
        assert plugin.engine.media.expand_one(ImageInfo(width, height)) == expected


@pytest.mark.parametrize("low_side", [True, False])
def test_one_sided_budget_moves_the_other_bound_along(low_side: bool, processor: ProcessorMixin) -> None:
    own = processor.image_processor.size
    options = (
        MediaOptions(image_min_pixels=own["longest_edge"] * 2)
        if low_side
        else MediaOptions(image_max_pixels=own["shortest_edge"] // 2)
    )
    size = auto_plugin(processor, options=options).processor_kwargs(processor, options)["image"]["size"]
    assert size["shortest_edge"] <= size["longest_edge"]


def test_the_processors_own_aspect_ratio_limit_names_the_row(
    processor: ProcessorMixin, image_file: ImageFactory
) -> None:
    plugin = auto_plugin(processor)
    good, bad = image_file(50, 50), image_file(201, 1)
    with pytest.raises(MediaProcessorError, match="absolute aspect ratio must be smaller than 200") as caught:
        plugin.transform(
            {
                "messages": [[user("<image>"), assistant("x")], [user("<image><image>"), assistant("x")]],
                "images": [[str(good)], [str(good), str(bad)]],
            },
            [7, 8],
        )
    assert "row 8, column 'images', index 1" in str(caught.value)
    assert bad.name in str(caught.value)


CONVERSATIONS = [
    [user("<image>What is it?"), assistant("A cat.")],
    [user("What is it?<image>"), assistant("A cat."), user("And this: <image> here?"), assistant("A dog.")],
    [
        {"role": "system", "content": "Be brief."},
        user([part("text", text="Between"), part("image"), part("text", text="turns")]),
        assistant([part("text", text="Yes. "), part("text", text="Indeed.")]),
        user("<image>\n<image>"),
        assistant("Two.\nLines — ünïcode 中文"),
        user("Thanks"),
        assistant("You are welcome."),
    ],
    [user("No image at all"), assistant("Right."), user("Still none"), assistant("")],
    [user("a"), user("b"), assistant("c"), assistant("d")],
]


@pytest.mark.parametrize("name", QWEN_FAMILIES)
@pytest.mark.parametrize("marked", [False, True], ids=["unmarked", "marked"])
@pytest.mark.parametrize("chat", CONVERSATIONS)
def test_labels_equal_the_published_generation_marks(
    name: str, marked: bool, chat: list[Message], image_file: ImageFactory, trl_template
) -> None:
    processor = PROCESSORS[name]
    published = "qwen3_vl" if name == "qwen3_vl" else "qwen2_5_vl"
    with_marks = trl_template(f"{published}_training")
    images = [
        image_file(90 + 40 * index, 60) for index in range(str(chat).count("<image>") + str(chat).count("'image'"))
    ]
    plugin = auto_plugin(processor, chat_template=with_marks if marked else trl_template(published))
    row = map_rows(plugin, [chat], [images])[0]
    expected = processor.apply_chat_template(
        oracle_messages(chat, images),
        chat_template=with_marks,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert row["input_ids"] == list(expected["input_ids"][0])
    mask = np.asarray(expected["assistant_masks"][0], dtype=bool)
    assert mask.any()
    assert np.array_equal(np.asarray(row["labels"]) != -100, mask)
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    assert np.array_equal(labels[mask], ids[mask])
    assert processor.tokenizer.convert_tokens_to_ids("<|im_end|>") in labels


@pytest.mark.parametrize("name", QWEN_FAMILIES)
@settings(max_examples=12)
@given(chat=chats())
def test_labels_equal_the_published_marks_on_drawn_chats(
    name: str, chat, image_file: ImageFactory, trl_template
) -> None:
    messages, image_sizes = chat
    processor = PROCESSORS[name]
    images = [image_file(*size, seed=index) for index, size in enumerate(image_sizes)]
    plugin = auto_plugin(processor)
    row = plugin.transform({"messages": [messages], "images": [images]})
    expected = processor.apply_chat_template(
        oracle_messages(messages, images),
        chat_template=trl_template("qwen3_vl_training" if name == "qwen3_vl" else "qwen2_5_vl_training"),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert row["input_ids"][0] == list(expected["input_ids"][0])
    assert [int(label != -100) for label in row["labels"][0]] == list(expected["assistant_masks"][0])


def test_media_spans_hold_the_delimiters(processor: ProcessorMixin, image_file: ImageFactory) -> None:
    plugin = auto_plugin(processor)
    chat = [user("<image> one <image>"), assistant("x")]
    row = map_rows(plugin, [chat], [[image_file(120, 80), image_file(300, 40)]])[0]
    decode = processor.tokenizer.convert_ids_to_tokens
    for info in row["media_info"]:
        tokens = decode(row["input_ids"][info["start"] : info["end"]])
        assert tokens == ["<|vision_start|>", *["<|image_pad|>"] * info["num_tokens"], "<|vision_end|>"]
    assert [(info["width"], info["height"]) for info in row["media_info"]] == [(120, 80), (300, 40)]
    assert row["length"] == len(row["input_ids"]) == len(row["labels"])


def test_the_batch_is_what_the_model_eats(processor: ProcessorMixin, image_file: ImageFactory, request) -> None:
    name = request.node.callspec.params["processor"]
    plugin = auto_plugin(processor)
    model = build_model(name, processor)
    mapped = map_rows(
        plugin,
        [CONVERSATIONS[0], CONVERSATIONS[1], CONVERSATIONS[3]],
        [[image_file(60, 60)], [image_file(80, 60), image_file(60, 90)], []],
    )
    output = model(**plugin.collator()(list(mapped)))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    gradients = [p.grad for n, p in model.named_parameters() if "visual" in n and p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_batch_equal_those_of_each_row_alone(
    side: str, processor: ProcessorMixin, image_file: ImageFactory, request
) -> None:
    name = request.node.callspec.params["processor"]
    plugin = auto_plugin(processor)
    model = build_model(name, processor).double()
    chats_ = [CONVERSATIONS[0], CONVERSATIONS[1], CONVERSATIONS[3]]
    images = [[image_file(60, 60)], [image_file(80, 60), image_file(60, 90)], []]
    mapped = map_rows(plugin, chats_, images)
    batch = plugin.collator(padding_side=side, pad_to_multiple_of=16)(list(mapped))
    assert batch["input_ids"].shape[1] % 16 == 0
    with torch.no_grad():
        together = model(**{k: v.double() if v.is_floating_point() else v for k, v in batch.items()}).logits
        for row, (chat, paths) in enumerate(zip(chats_, images, strict=True)):
            alone = processor_batch(processor, [chat], [paths])
            logits = model(**{k: v.double() if v.is_floating_point() else v for k, v in alone.items()}).logits[0]
            real = together[row][batch["attention_mask"][row].bool()]
            torch.testing.assert_close(real, logits, rtol=1e-9, atol=1e-9)


def test_qwen2_and_qwen2_5_share_a_plugin() -> None:
    assert auto_plugin(PROCESSORS["qwen2_vl"]).family == auto_plugin(PROCESSORS["qwen2_5_vl"]).family == "qwen2_vl"
    assert type(get_mm_plugin("qwen2_5_vl")) is type(get_mm_plugin("qwen2_vl"))
    assert auto_plugin(PROCESSORS["qwen3_vl"]).family == "qwen3_vl"


@pytest.mark.parametrize("name", QWEN_FAMILIES)
def test_the_generic_plugin_gives_the_same(name: str, image_file: ImageFactory) -> None:
    processor = PROCESSORS[name]
    images = [[image_file(500, 300), image_file(77, 91)], []]
    conversations = [[user("<image> and <image>"), assistant("x")], [user("none"), assistant("y")]]
    plugin = get_mm_plugin("generic", processor=processor)
    mapped = map_rows(plugin, conversations, images)
    assert_same_tensors(plugin.collator()(list(mapped)), processor_batch(processor, conversations, images))
