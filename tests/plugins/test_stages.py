"""The three stages on their own, third-party plugins and the registry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from mmdatasets import MediaOptions, auto_plugin, get_mm_plugin, list_mm_plugins, register_mm_plugin
from mmdatasets.errors import (
    CollateError,
    MediaDecodeError,
    MediaError,
    MMDatasetsError,
    PlaceholderError,
    TemplateError,
    UnknownPluginError,
)
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.plugins.qwen2_vl import Qwen2VLPlugin
from mmdatasets.testing.processors import build_processor, read_chat_template
from tests.oracle import processor_batch

CHAT = [
    {"role": "user", "content": "<image>\nWhat is this, and <image>?"},
    {"role": "assistant", "content": "Two things."},
]


@pytest.mark.parametrize("given", [True, False], ids=["own-processor", "processor-argument"])
def test_stages_give_the_processors_ids_and_tensors(given: bool, processor, image_file) -> None:
    images = [image_file(200, 100), image_file(64, 300)]
    plugin = get_mm_plugin("qwen2_vl", "<|image_pad|>", "<|video_pad|>", **({"processor": processor} if given else {}))
    argument = None if given else processor
    messages = plugin.process_messages(CHAT, images, [], [], argument)
    assert CHAT[0]["content"].startswith("<image>")  # the caller's messages are left alone
    text = processor.apply_chat_template(messages)
    ids = processor.tokenizer(text)["input_ids"]
    expected = processor_batch(processor, [CHAT], [images])
    assert ids == expected["input_ids"][0].tolist()
    assert plugin.process_token_ids(ids, None, images, [], [], processor.tokenizer, argument) == (ids, None)
    inputs = plugin.get_mm_inputs(images, [], [], [2], [0], [0], [ids], argument)
    assert np.array_equal(inputs["pixel_values"].numpy(), expected["pixel_values"].numpy())
    assert np.array_equal(inputs["image_grid_thw"].numpy(), expected["image_grid_thw"].numpy())
    assert inputs["mm_token_type_ids"] == expected["mm_token_type_ids"].tolist()


def test_without_expansion_each_media_token_stands_once(processor, image_file) -> None:
    plugin = get_mm_plugin("qwen2_vl", expand_mm_tokens=False, processor=processor)
    messages = plugin.process_messages(CHAT, [image_file(200, 100)] * 2, [], [], processor)
    markup = "<|vision_start|><|image_pad|><|vision_end|>"
    assert messages[0]["content"] == f"{markup}\nWhat is this, and {markup}?"


def test_attributes_on_the_processor_are_the_stages_budget(processor, image_file) -> None:
    images = [image_file(800, 600)]
    chat = [{"role": "user", "content": "<image>"}]
    processor.image_max_pixels, processor.image_min_pixels = 100_000, 5_000
    plugin = auto_plugin(processor)
    optioned = auto_plugin(processor, options=MediaOptions(image_max_pixels=100_000, image_min_pixels=5_000))
    assert plugin.process_messages(chat, images, [], [], processor) == optioned.process_messages(
        chat, images, [], [], None
    )
    by_attribute = plugin.get_mm_inputs(images, [], [], [1], [0], [0], [], processor)
    by_option = optioned.get_mm_inputs(images, [], [], [1], [0], [0], [], None)
    assert torch.equal(by_attribute["pixel_values"], by_option["pixel_values"])
    assert by_attribute["image_grid_thw"].prod() * 14 * 14 <= 110_000
    # The transform goes by its options alone.
    assert (
        plugin.transform({"messages": [chat], "images": [images]})["length"]
        != optioned.transform({"messages": [chat], "images": [images]})["length"]
    )


def test_features_that_do_not_fit_name_the_row(processor, image_file) -> None:
    plugin = auto_plugin(processor)
    ids = [[1, 2, 3], [processor.image_token_id] * 3]
    with pytest.raises(
        CollateError, match=r"row 1 of the batch \(.*jpg\): its 1 image\(s\) make \d+ features.* 3 media tokens"
    ):
        plugin.get_mm_inputs([image_file(200, 100)], [], [], [0, 1], [0, 0], [0, 0], ids, None)
    with pytest.raises(CollateError, match="remove_unused_columns=False"):
        plugin.get_mm_inputs([], [], [], [0, 0], [0, 0], [0, 0], ids, None)


def test_a_broken_image_names_its_row(processor, image_file, tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(image_file(300, 300).read_bytes()[:600])
    with pytest.raises(MediaDecodeError, match=r"row 2 of the batch, column 'images', index 1 \(.*broken.jpg"):
        auto_plugin(processor).get_mm_inputs(
            [image_file(60, 60)] * 2 + [broken], [], [], [1, 0, 2], [0] * 3, [0] * 3, [], None
        )


def test_counts_that_do_not_match_are_refused(processor, image_file) -> None:
    with pytest.raises(PlaceholderError, match="2 image placeholder"):
        auto_plugin(processor).process_messages(CHAT, [image_file(60, 60)], [], [], None)


def test_audio_is_refused_clearly_where_the_model_takes_none(processor) -> None:
    with pytest.raises(MediaError, match="takes no audios, but the row has 1"):
        auto_plugin(processor).process_messages(CHAT, [], [], ["a.wav"], None)


def test_a_stage_without_processor_says_so() -> None:
    with pytest.raises(MMDatasetsError, match="processor"):
        get_mm_plugin("qwen2_vl").process_messages(CHAT, [], [], [], None)
    with pytest.raises(MMDatasetsError, match=r"get_mm_plugin\(\.\.\., processor=processor\)"):
        get_mm_plugin("qwen2_vl").transform({"messages": [CHAT[1:]]})


def test_another_media_token_than_the_processors_is_refused(processor) -> None:
    with pytest.raises(ValueError, match="image_token='<img>' is not the token of"):
        get_mm_plugin("qwen2_vl", image_token="<img>", processor=processor)


def test_text_only_models_work_and_refuse_images(image_file) -> None:
    tokenizer = build_processor("qwen2_vl").tokenizer
    tokenizer.chat_template = build_processor("qwen2_vl").chat_template
    for plugin in (auto_plugin(tokenizer), get_mm_plugin("base", processor=tokenizer)):
        rows = plugin.transform({"messages": [CHAT[1:]]})
        assert rows["input_ids"][0] == tokenizer.apply_chat_template(CHAT[1:], return_dict=True)["input_ids"]
        batch = plugin.collator()([{name: column[0] for name, column in rows.items()}])
        assert set(batch) == {"input_ids", "attention_mask", "labels"}
        with pytest.raises(MediaError, match="takes no images, but the row has 2"):
            plugin.transform({"messages": [CHAT], "images": [[image_file(60, 60)] * 2]})


def test_a_tokenizer_alone_adds_no_bos_of_its_own() -> None:
    tokenizer = build_processor("lfm2_vl").tokenizer
    chat = [{"role": "user", "content": "Hello"}, CHAT[1]]
    assert tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id
    for name, written in (("chatml", False), ("lfm2_vl", True)):
        tokenizer.chat_template = read_chat_template(name)
        ids = get_mm_plugin("base", processor=tokenizer).transform({"messages": [chat]})["input_ids"][0]
        assert ids == tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        assert (tokenizer.bos_token_id in ids) == written


# ------------------------------------------------------------------------------------------------------ registry


@dataclass(eq=False)
class ThirdPartyPlugin(Qwen2VLPlugin):
    """Overrides nothing."""


@dataclass(eq=False)
class OwnMessagesPlugin(Qwen2VLPlugin):
    """Overrides `process_messages` alone, as plugins of other trainers do: numbers the images."""

    def process_messages(self, messages, images, videos, audios, processor):
        result, count = [], 0
        for message in messages:
            text = message["content"]
            while "<image>" in text:
                width, height = Image.open(images[count]).size
                patches = processor.image_processor.get_number_of_image_patches(height, width)
                tokens = "<|image_pad|>" * (patches // processor.image_processor.merge_size**2)
                count += 1
                text = text.replace("<image>", f"Image {count}: <|vision_start|>{tokens}<|vision_end|>", 1)
            result.append({**message, "content": text})
        return result


def test_a_third_partys_own_messages_are_what_is_tokenised(image_file) -> None:
    processor = build_processor("qwen2_vl")
    plugin = OwnMessagesPlugin(processor=processor)
    images = [image_file(200, 100), image_file(64, 300)]
    chat = [{**CHAT[0], "content": CHAT[0]["content"] + " <|image_pad|>"}, CHAT[1]]
    rows = plugin.transform({"messages": [chat, CHAT[1:]], "images": [images, []]})
    parts = [
        {"type": "text", "text": "Image 1: "},
        {"type": "image", "image": str(images[0])},
        {"type": "text", "text": "\nWhat is this, and Image 2: "},
        {"type": "image", "image": str(images[1])},
        {"type": "text", "text": "? <|image_pad|>"},
    ]
    expected = processor.apply_chat_template(
        [{"role": "user", "content": parts}, CHAT[1]], tokenize=True, return_dict=True, sanitize_control_tokens=True
    )
    assert rows["input_ids"][0] == list(expected["input_ids"][0])
    trained = [token for token in rows["labels"][0] if token != -100]
    assert processor.tokenizer.decode(trained) == "Two things.<|im_end|>\n"
    tokens = processor.tokenizer.convert_ids_to_tokens(rows["input_ids"][0])
    for info in rows["media_info"][0]:
        span = tokens[info["start"] : info["end"]]
        assert span == ["<|vision_start|>", *["<|image_pad|>"] * info["num_tokens"], "<|vision_end|>"]
    batch = plugin.collator()([{name: column[index] for name, column in rows.items()} for index in range(2)])
    assert batch["image_grid_thw"].shape == (2, 3)


@dataclass(eq=False)
class WrongMessagesPlugin(Qwen2VLPlugin):
    def process_messages(self, messages, images, videos, audios, processor):
        return [{**message, "content": message["content"].replace("<image>", "<|image_pad|>")} for message in messages]


def test_a_third_partys_wrong_count_is_noticed(image_file) -> None:
    plugin = WrongMessagesPlugin(processor=build_processor("qwen2_vl"))
    with pytest.raises(
        TemplateError, match=r"row 0 of the batch: process_messages .* runs of \[1, 1\] .* \[28, 22\] feat"
    ):
        plugin.transform({"messages": [CHAT], "images": [[image_file(200, 100), image_file(64, 300)]]})


class Identity:
    """An override that changes nothing."""

    def process_messages(self, *args):
        return super().process_messages(*args)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "internvl", "pixtral", "mllama", "paligemma", "minicpmv4_6"])
def test_an_override_that_changes_nothing_changes_no_row(name: str, image_file) -> None:
    processor = build_processor(name)
    plugin = auto_plugin(processor)
    own = type("Own", (Identity, type(plugin)), {})(processor=processor)
    assert own.has_own_messages
    chats = [
        [{"role": "user", "content": f"{'<image>' * count} what?"}, {"role": "assistant", "content": "this"}]
        for count in (1, 2, 0)
    ]
    images = [[image_file(200, 100)], [image_file(200, 100), image_file(64, 300)], []]
    rows, same = (one.transform({"messages": chats, "images": images}) for one in (own, plugin))
    if name not in ("llava", "mllama", "paligemma"):  # whose templates trim or move the parts of typed content
        assert rows["input_ids"] == same["input_ids"]
        assert rows["labels"] == same["labels"]
    assert [[item["num_tokens"] for item in row] for row in rows["media_info"]] == [
        [item["num_tokens"] for item in row] for row in same["media_info"]
    ]


def test_literal_placeholders_do_not_move_bos() -> None:
    """What a user typed is no image and no bos, wherever the processor looks for them in the text."""
    for name in ("paligemma", "mllama"):
        processor = build_processor(name)
        bos, token = processor.tokenizer.bos_token_id, processor.image_token
        plugin = auto_plugin(processor, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
        for text in (f"what is {token}", f"what is {processor.tokenizer.bos_token}", f"{token} first"):
            row = plugin.transform({"messages": [[{"role": "user", "content": text}]], "images": [[]]})
            ids = row["input_ids"][0]
            assert ids.count(bos) == 1
            assert ids[0] == bos
            assert processor.image_token_id not in ids
            assert processor.tokenizer.decode(ids[1:]) == text


def test_each_image_gets_its_own_markup(image_file) -> None:
    plugin = auto_plugin(build_processor("ernie4_5_vl"), expand_mm_tokens=False)
    chat = [{"role": "user", "content": "<image> and <image>?"}]
    [message] = plugin.process_messages(chat, [image_file(60, 60)] * 2, [], [], None)
    assert message["content"].startswith("Picture 1:")
    assert " and Picture 2:" in message["content"]


def test_paligemmas_token_types_follow_the_ids(image_file) -> None:
    plugin = auto_plugin(build_processor("paligemma"))
    ids = [5, *[plugin.processor.image_token_id] * 256, 7, 8]
    inputs = plugin.get_mm_inputs([image_file(60, 60)], [], [], [1, 0], [0, 0], [0, 0], [ids, [5, 6]], None)
    assert inputs["token_type_ids"] == [[0] * 257 + [1, 1], [1, 1]]


def test_image_counts_must_add_up(processor, image_file) -> None:
    with pytest.raises(CollateError, match=r"imglens counts 1 image\(s\) in 1 row\(s\), got 2"):
        auto_plugin(processor).get_mm_inputs([image_file(60, 60)] * 2, [], [], [1], [0], [0], [], None)


def test_registering_a_plugin_anew_keeps_its_processors() -> None:
    register_mm_plugin("llava", type(get_mm_plugin("llava")))
    assert auto_plugin(build_processor("llava")).family == "llava"


@dataclass(eq=False)
class OwnInputsPlugin(Qwen2VLPlugin):
    """Adds an input of its own."""

    def get_mm_inputs(self, *args):
        return super().get_mm_inputs(*args) | {"own": torch.ones(1)}


def test_a_third_partys_own_inputs_reach_the_batch(image_file) -> None:
    plugin = OwnInputsPlugin(processor=build_processor("qwen2_vl"))
    rows = plugin.transform({"messages": [CHAT], "images": [[image_file(60, 60)] * 2]})
    batch = plugin.collator()([{name: column[0] for name, column in rows.items()}])
    assert batch["own"].item() == 1
    assert "pixel_values" in batch


def test_a_third_partys_plugin_registers(image_file) -> None:
    register_mm_plugin("third_party", ThirdPartyPlugin)
    register_mm_plugin("third_party", ThirdPartyPlugin)  # a notebook cell run twice
    assert "third_party" in list_mm_plugins()
    plugin = get_mm_plugin("third_party", processor=build_processor("qwen2_vl"))
    assert type(plugin) is ThirdPartyPlugin
    rows = plugin.transform({"messages": [CHAT], "images": [[image_file(60, 60)] * 2]})
    assert len(rows["media_info"][0]) == 2


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownPluginError, match=r"'qwen9_vl'; known: base, .*generic, .*qwen2_5_vl, .*qwen3_vl"):
        get_mm_plugin("qwen9_vl")


def test_what_is_no_plugin_is_not_registered() -> None:
    with pytest.raises(TypeError, match="subclass"):
        register_mm_plugin("x", dict)
    with pytest.raises(ValueError, match="taken"):
        register_mm_plugin("qwen2_vl", BasePlugin)


def test_options_are_checked() -> None:
    for wrong in (0, -1, 1.5, "10", True):
        with pytest.raises(ValueError, match="image_max_pixels must be a positive integer"):
            MediaOptions(image_max_pixels=wrong)
    with pytest.raises(ValueError, match="must not exceed"):
        MediaOptions(image_min_pixels=10, image_max_pixels=5)
    with pytest.raises(ValueError, match="media_root must be a local directory"):
        MediaOptions(media_root="memory://folder")
    with pytest.raises(ValueError, match="image_backend"):
        MediaOptions(image_backend="opencv")
