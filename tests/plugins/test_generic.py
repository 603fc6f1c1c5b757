"""The generic plugin: exact, or refused by its own comparison with the processor's call."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets.fingerprint import Hasher
from transformers import LlavaProcessor

from mmdatasets import auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaProcessorError, ProcessorMismatchError
from mmdatasets.plugins.generic import GenericPlugin
from mmdatasets.testing import build_processor, get_spec, list_processors, make_image
from mmdatasets.transforms.tokenise import Edit
from tests.oracle import assert_same_tensors, processor_batch

# Processor -> what its call makes that its hooks do not tell.
REFUSED = {
    "chameleon": r"'<reserved08706>' at the end, the plugin nothing",
    "emu3": r"'<\|extra_203\|>' at the beginning, the plugin nothing",
    "glm_image": r"'<sop>36 24<eop><sop>19 13<eop><\|dit_token_16384\|>' at the end, the plugin nothing",
    "molmo2": r"'<\|im_end\|>' at the beginning, the plugin nothing",
}
GENERIC = [name for name in list_processors() if get_spec(name).plugin == "generic"]
CHAT = [{"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": "A cat."}]
TEXT_CHAT = [{"role": "user", "content": "What is a cat?"}, {"role": "assistant", "content": "An animal."}]


def columns(chat, *images: Path) -> dict[str, list[object]]:
    return {"messages": [chat], "images": [[str(path) for path in images]]}


def first_row(plugin, chat, *images: Path) -> dict[str, object]:
    return {name: column[0] for name, column in plugin.transform(columns(chat, *images)).items()}


@pytest.mark.parametrize("name", [name for name in GENERIC if name not in REFUSED])
def test_the_comparison_refuses_no_processor_that_says_all(name: str) -> None:
    assert auto_plugin(build_processor(name)).engine is not None


@pytest.mark.parametrize("name", REFUSED)
def test_a_processor_that_changes_the_text_is_refused(name: str) -> None:
    plugin = auto_plugin(build_processor(name))
    assert plugin.family == "generic"
    with pytest.raises(ProcessorMismatchError, match=REFUSED[name]) as caught:
        plugin.transform(columns(TEXT_CHAT))
    message = str(caught.value)
    assert message.startswith(type(plugin.processor).__name__)  # it is about no row
    assert "does more in its call" in message
    assert "docs/adding_a_family.md" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_every_way_in_refuses(image_file) -> None:
    processor, image = build_processor("molmo2"), image_file(64, 64)
    plugin = auto_plugin(processor)
    calls = [
        lambda: plugin.transform(columns(CHAT, image)),
        lambda: plugin.process_messages(CHAT, [image], [], [], None),
        lambda: get_mm_plugin("generic").process_messages(CHAT, [image], [], [], processor),
        lambda: plugin.get_mm_inputs([image], [], [], [1], [0], [0], [], None),
        lambda: plugin.collator()([{"input_ids": [1, 2]}]),
    ]
    for call in calls:
        with pytest.raises(ProcessorMismatchError):
            call()


@pytest.mark.parametrize("name", ["ernie4_5_vl", "minicpmv4_6", "mllama", "paligemma"])
def test_families_that_need_their_plugin_are_refused_without(name: str) -> None:
    with pytest.raises(ProcessorMismatchError):
        _ = GenericPlugin(processor=build_processor(name)).engine


# ------------------------------------------------------------------------------------------- what it notices and not


def llava(kind: type[LlavaProcessor]) -> LlavaProcessor:
    made = build_processor("llava")
    return kind(made.image_processor, made.tokenizer, made.patch_size, chat_template=made.chat_template)


class Adding(LlavaProcessor):
    def __call__(self, *args, **kwargs):
        made = super().__call__(*args, **kwargs)
        made["position_ids"] = torch.arange(made["input_ids"].shape[1])[None]
        return made


class LeavingOut(LlavaProcessor):
    def __call__(self, *args, **kwargs):
        made = super().__call__(*args, **kwargs)
        del made["attention_mask"]
        return made


class Reshaping(LlavaProcessor):
    def __call__(self, images=None, **kwargs):
        made = super().__call__(images=images, **kwargs)
        if images is not None:
            made["pixel_values"] = made["pixel_values"][:, None]
        return made


class Numbering(LlavaProcessor):
    """Numbers images from the second on."""

    def get_text_with_replacements(self, text, images_replacements=(), *others):
        numbered = [f"{index or ''}{text}" for index, text in enumerate(images_replacements)]
        return super().get_text_with_replacements(text, numbered, *others)


class NeedingPixels(Numbering):
    def _process_images(self, images, **kwargs):
        _ = [float(image.sum()) for row in images for image in row]
        return super()._process_images(images, **kwargs)


class NeedingImages(LlavaProcessor):
    def __call__(self, images=None, **kwargs):
        if images is None:
            raise ValueError("images are missing")
        return super().__call__(images=images, **kwargs)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Adding, "of a chat without media, it makes position_ids, which the plugin does not"),
        (LeavingOut, "of a chat without media, it does not make attention_mask, which the plugin does"),
        (
            Reshaping,
            r"of a chat with 1 image\(s\), its pixel_values is torch.float32 \(1, 1, 3, 336, 336\), the plugin's "
            r"torch.float32 \(1, 3, 336, 336\)",
        ),
        (Numbering, r"of a chat with 2 image\(s\), it makes '1' at token \d+, the plugin nothing"),
        (NeedingPixels, r"of a chat with 2 image\(s\), it makes '1'"),
    ],
)
def test_what_differs_is_said(kind: type[LlavaProcessor], found: str) -> None:
    with pytest.raises(ProcessorMismatchError, match=f"^{kind.__name__} does more.*{found}"):
        _ = GenericPlugin(processor=llava(kind)).engine


def test_a_probe_that_the_processor_refuses_says_nothing(image_file) -> None:
    processor, image = llava(NeedingImages), image_file(80, 60)
    plugin = GenericPlugin(processor=processor)
    batch = plugin.collator()([first_row(plugin, CHAT, image)])
    assert_same_tensors(batch, processor_batch(processor, [CHAT], [[image]]))


def test_without_a_chat_template_the_stages_are_compared_all_the_same(image_file) -> None:
    processor, other = build_processor("idefics3"), build_processor("molmo2")
    processor.chat_template = other.chat_template = None
    processor.image_seq_len = 7
    plugin = get_mm_plugin("generic", processor=processor)
    (message,) = plugin.process_messages(CHAT[:1], [image_file(64, 64)], [], [], None)
    expected = processor(text=[CHAT[0]["content"]], images=[[make_image(64, 64)]], add_special_tokens=False)
    assert processor.tokenizer(message["content"], add_special_tokens=False)["input_ids"] == expected["input_ids"][0]
    with pytest.raises(ProcessorMismatchError, match="at the beginning"):
        get_mm_plugin("generic", processor=other).process_messages(CHAT, [image_file(64, 64)], [], [], None)


# ----------------------------------------------------------------------------------------------- what it costs


@pytest.fixture
def own_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the processor itself was called."""
    calls: Counter[str] = Counter()
    plain = LlavaProcessor.__call__

    def counting(self, *args, **kwargs):
        calls["own"] += 1
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(LlavaProcessor, "__call__", counting)
    return calls


def test_it_compares_once_at_first_use(own_calls: Counter[str], image_file) -> None:
    plugin = GenericPlugin(processor=build_processor("llava"))
    before = Hasher.hash(plugin.transform)
    assert not own_calls
    row = first_row(plugin, CHAT, image_file(80, 60))
    compared = own_calls["own"]
    assert 3 <= compared <= 5  # text, one image, two images; the latter with data where they cannot do without
    plugin.collator()([row])
    plugin.process_messages(CHAT, [image_file(80, 60)], [], [], None)
    plugin.process_messages(CHAT, [image_file(80, 60)], [], [], plugin.processor)
    assert own_calls["own"] == compared
    assert Hasher.hash(plugin.transform) == before
    pickle.loads(pickle.dumps(plugin)).transform(columns(TEXT_CHAT))
    assert own_calls["own"] == 2 * compared  # another process compares for itself


def test_families_with_a_plugin_are_not_compared(own_calls: Counter[str]) -> None:
    plugin = auto_plugin(build_processor("llava"))
    plugin.transform(columns(TEXT_CHAT))
    assert plugin.family == "llava"
    assert not own_calls


# ------------------------------------------------------------------------------------------- the way out of a refusal


@dataclass(eq=False)
class SeparatingPlugin(GenericPlugin):
    def text_edits(self, engine, text):
        return [Edit(len(text), len(text), engine.tokenizer.sep_token)]


def test_a_plugin_that_does_the_same_passes(image_file) -> None:
    processor, image = build_processor("chameleon"), image_file(80, 60)
    plugin = SeparatingPlugin(processor=processor)
    for chat, images in ((CHAT, [image]), (TEXT_CHAT, [])):
        batch = plugin.collator()([first_row(plugin, chat, *images)])
        assert_same_tensors(batch, processor_batch(processor, [chat], [images]))


# ------------------------------------------------------------------------------------------------- rows it refuses


def test_the_image_that_the_processor_refuses_is_named(image_file) -> None:
    plugin = GenericPlugin(processor=build_processor("qwen2_vl"))
    images = [image_file(64, 64), image_file(900, 3)]
    chat = [{"role": "user", "content": "<image> and <image>"}, {"role": "assistant", "content": "Yes."}]
    with pytest.raises(MediaProcessorError, match="aspect ratio") as caught:
        plugin.transform({"messages": [chat], "images": [list(map(str, images))]}, [7])
    assert (caught.value.row, caught.value.column, caught.value.index) == (7, "images", 1)
    assert "900x3" in str(caught.value.source)
