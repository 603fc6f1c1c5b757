"""The generic plugin: exact, or refused by its own comparison with the processor's call."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets.fingerprint import Hasher
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv
from transformers import AudioFlamingo3Processor, FuyuImageProcessor, FuyuProcessor, LlavaProcessor

from mmdatasets import MediaOptions, auto_plugin, get_mm_plugin
from mmdatasets.errors import MediaProcessorError, ProcessorMismatchError
from mmdatasets.plugins.call_frame import CallFrame, frames_between
from mmdatasets.plugins.generic import GenericPlugin
from mmdatasets.plugins.self_check import make_checked_engine
from mmdatasets.testing import build_processor, build_tokenizer, get_spec, list_processors, make_image
from mmdatasets.transforms.tokenise import Edit
from tests.oracle import assert_same_tensors, processor_batch

# Processor -> what its call makes that its hooks do not tell.
REFUSED = {"glm_image": r"'<sop>36 24<eop><sop>19 13<eop><\|dit_token_16384\|>' at the end, the plugin nothing"}
# Processor -> the special tokens that its call puts around every text.
FRAMED = {
    "chameleon": CallFrame("", "<reserved08706>", repeats=True),
    "emu3": CallFrame("<|extra_203|>", "", repeats=True),
    "molmo2": CallFrame("<|im_end|>", "", repeats=False),
}
GENERIC = [name for name in list_processors() if get_spec(name).plugin == "generic"]
NAMED = [name for name in list_processors() if get_spec(name).plugin != "generic"]
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
    processor, image = build_processor("glm_image"), image_file(64, 64)
    plugin = auto_plugin(processor)
    calls = [
        lambda: plugin.transform(columns(CHAT, image)),
        lambda: plugin.process_messages(CHAT, [image], [], [], None),
        lambda: get_mm_plugin("generic").process_messages(CHAT, [image], [], [], processor),
        lambda: plugin.process_token_ids([1, 2], None, [], [], [], processor.tokenizer, None),
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


@pytest.mark.parametrize("name", [name for name in NAMED if name != "paligemma"])  # its call takes the answer apart
def test_the_comparison_holds_for_every_family_with_a_plugin(name: str) -> None:
    plugin = auto_plugin(build_processor(name))
    engine = make_checked_engine(plugin, plugin.processor, plugin.options)
    assert engine.frame == CallFrame()
    assert not engine.media.refused


@pytest.mark.parametrize(
    ("name", "own"), [("cosmos3_edge", True), ("exaone4_5", True), ("cohere2_vision", False), ("inkling", False)]
)
def test_pixel_budgets_do_not_disturb_the_comparison(name: str, own: bool, image_file) -> None:
    """The processor's call knows nothing of them, and would be given other images than the plugin makes of probes."""
    processor, path = build_processor(name), image_file(80, 60)
    options = MediaOptions(image_min_pixels=200_000, image_max_pixels=300_000, video_min_pixels=100_000)
    plugin = auto_plugin(processor, options=options)
    batch = plugin.collator()([first_row(plugin, CHAT, path)])
    assert not plugin.engine.media.refused
    [image] = processor.image_processor.fetch_images([str(path)])
    size = {"size": {"shortest_edge": 200_000, "longest_edge": 300_000}} if own else {}
    if not own:
        image = tv.resize(image, [388, 517], interpolation=InterpolationMode.BICUBIC, antialias=True)
    question = [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]
    answer = [{"type": "text", "text": "A cat."}]
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    expected = processor.apply_chat_template(
        [chat], tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"images_kwargs": size}
    )
    assert_same_tensors(batch, expected)


def test_what_the_comparison_finds_holds_with_options_too(image_file) -> None:
    """Frames and modalities that it refuses."""
    framed = auto_plugin(build_processor("molmo2"), options=MediaOptions(image_max_pixels=40_000))
    assert framed.engine.frame == FRAMED["molmo2"]
    plain = auto_plugin(build_processor("video_llama_3"))
    sized = auto_plugin(build_processor("video_llama_3"), options=MediaOptions(video_max_pixels=40_000))
    assert sized.engine.media.refused == plain.engine.media.refused
    assert list(plain.engine.media.refused) == ["video"]


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
    processor, other = build_processor("idefics3"), build_processor("glm_image")
    processor.chat_template = other.chat_template = None
    processor.image_seq_len = 7
    plugin = get_mm_plugin("generic", processor=processor)
    (message,) = plugin.process_messages(CHAT[:1], [image_file(64, 64)], [], [], None)
    expected = processor(text=[CHAT[0]["content"]], images=[[make_image(64, 64)]], add_special_tokens=False)
    assert processor.tokenizer(message["content"], add_special_tokens=False)["input_ids"] == expected["input_ids"][0]
    with pytest.raises(ProcessorMismatchError, match="at the end"):
        get_mm_plugin("generic", processor=other).process_messages(CHAT, [image_file(64, 64)], [], [], None)


class Timing(AudioFlamingo3Processor):
    """Writes behind every clip how long it is."""

    def __call__(self, text=None, audio=None, **kwargs):
        if audio is not None:
            text = [text[0].replace(self.audio_token, f"{self.audio_token}({len(audio[0])} samples)")]
        return super().__call__(text=text, audio=audio, **kwargs)


def test_audio_that_differs_is_refused_alone() -> None:
    made = build_processor("audioflamingo3")
    plugin = GenericPlugin(processor=Timing(made.feature_extractor, made.tokenizer, made.chat_template))
    assert first_row(plugin, TEXT_CHAT)["input_ids"]
    chat = [{"role": "user", "content": "<audio>What?"}, {"role": "assistant", "content": "A cat."}]
    clip = {"array": torch.zeros(16_000), "sampling_rate": 16_000}
    with pytest.raises(
        MediaProcessorError, match=r"with 1 audio\(s\), it makes '\(4000 samples\)' at token \d+"
    ) as caught:
        plugin.transform({"messages": [chat], "audios": [[clip]]})
    assert (caught.value.column, caught.value.index) == ("audios", 0)


def test_what_the_call_refuses_is_refused(image_file) -> None:
    """Fuyu's call writes an image's tokens before the text itself: of a placeholder its hooks make something all the
    same."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "|SPEAKER|", "|NEWLINE|", "<0x04>"]
    tokenizer = build_tokenizer(tokens, bos_token="<s>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    processor = FuyuProcessor(FuyuImageProcessor(), tokenizer)
    processor.chat_template = build_processor("molmo2").chat_template
    plugin = GenericPlugin(processor=processor)
    assert first_row(plugin, TEXT_CHAT)["input_ids"]
    with pytest.raises(
        MediaProcessorError, match=r"of a chat with 1 image\(s\), which it refuses \(ValueError: Mismatch"
    ):
        first_row(plugin, CHAT, image_file(64, 48))


# --------------------------------------------------------------------------------- calls that frame every text


@pytest.mark.parametrize("name", FRAMED)
def test_special_tokens_around_every_text_are_put_there(name: str, image_file) -> None:
    processor, images = build_processor(name), [image_file(80, 60), image_file(64, 64)]
    plugin = auto_plugin(processor)
    assert plugin.engine.frame == FRAMED[name]
    two = [{"role": "user", "content": "<image> and <image>"}, {"role": "assistant", "content": "Yes."}]
    chats, media = [CHAT, TEXT_CHAT, two], [images[:1], [], images]
    rows = [first_row(plugin, chat, *own) for chat, own in zip(chats, media, strict=True)]
    for row, chat, own in zip(rows, chats, media, strict=True):
        assert_same_tensors(plugin.collator()([row]), processor_batch(processor, [chat], [own]))
    batch = plugin.collator(padding_side=processor.tokenizer.padding_side)(rows)
    assert_same_tensors(batch, processor_batch(processor, chats, media))


@pytest.mark.parametrize("name", FRAMED)
def test_the_stages_put_them_there_too(name: str, image_file) -> None:
    processor, image = build_processor(name), image_file(80, 60)
    plugin = auto_plugin(processor)
    text = processor.apply_chat_template(plugin.process_messages(CHAT, [image], [], [], None))
    ids = processor.tokenizer(text)["input_ids"]
    row = first_row(plugin, CHAT, image)
    assert plugin.process_token_ids(ids, None, [image], [], [], processor.tokenizer, None) == (row["input_ids"], None)
    labels = [*[-100] * (len(ids) - 3), *ids[-3:]]
    framed, targets = plugin.process_token_ids(ids, labels, [image], [], [], processor.tokenizer, None)
    assert (framed, len(targets)) == (row["input_ids"], len(framed))
    assert targets[0] == -100
    assert targets[-1] == row["labels"][-1] == framed[-1]


def test_what_ends_an_answer_is_trained_and_nothing_before_the_first_turn_is() -> None:
    for name, frame in FRAMED.items():
        plugin = auto_plugin(build_processor(name))
        row = first_row(plugin, TEXT_CHAT)
        look_up = plugin.engine.tokenizer.convert_tokens_to_ids
        if frame.before:
            assert (row["input_ids"][0], row["labels"][0]) == (look_up(frame.before), -100)
        else:
            assert row["labels"][-1] == row["input_ids"][-1] == look_up(frame.after)


def test_a_frame_is_put_where_it_is_not_unless_it_repeats() -> None:
    once, always = CallFrame("<s>", "</s>"), CallFrame("<s>", "</s>", repeats=True)
    assert once.edits("a") == always.edits("a") == [Edit(0, 0, "<s>"), Edit(1, 1, "</s>")]
    assert once.edits("<s>a</s>") == []
    assert len(always.edits("<s>a</s>")) == 2
    assert list(frames_between([7, 8], [1, 7, 8, 9], build_processor("llava").tokenizer)) == []  # not special tokens


# ----------------------------------------------------------------------------------------- forms of images


def test_a_processor_that_takes_one_list_of_images_is_exact(image_file) -> None:
    """GOT-OCR 2 refuses nested lists, and with them `apply_chat_template(tokenize=True)`."""
    processor, paths = build_processor("got_ocr2"), [image_file(80, 60), image_file(300, 200)]
    plugin = auto_plugin(processor)
    rows = [first_row(plugin, CHAT, path) for path in paths]
    text = processor.apply_chat_template([{**CHAT[0], "content": f"{processor.image_token}What is this?"}, CHAT[1]])
    images = [processor.image_processor.fetch_images(str(path)) for path in paths]
    expected = processor(text=[text, text], images=images, return_tensors="pt", padding=True)
    assert_same_tensors(plugin.collator()(rows), expected)


def test_a_class_without_hooks_says_what_to_do(image_file) -> None:
    plugin = auto_plugin(build_processor("idefics2"))
    with pytest.raises(MediaProcessorError, match=r"lacks replace_image_token .* docs/adding_a_family.md") as caught:
        first_row(plugin, CHAT, image_file(80, 60))
    assert caught.value.index == 0


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


class Asking(LlavaProcessor):
    """Ends every text with a request."""

    def __call__(self, images=None, text=None, **kwargs):
        return super().__call__(images=images, text=[f"{one} Be brief." for one in text], **kwargs)


@dataclass(eq=False)
class AskingPlugin(GenericPlugin):
    def text_edits(self, engine, text):
        return [*super().text_edits(engine, text), Edit(len(text), len(text), " Be brief.")]


def test_a_plugin_that_does_the_same_passes(image_file) -> None:
    processor, image = llava(Asking), image_file(80, 60)
    with pytest.raises(ProcessorMismatchError, match=r"it makes ' Be brief\.' at the end"):
        _ = GenericPlugin(processor=processor).engine
    plugin = AskingPlugin(processor=processor)
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
