"""Rows fitted into a length: what is left is what the processor makes of the shortened conversation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets import ShrinkFloor, auto_plugin
from mmdatasets.errors import ConversationError, RowTooLongError
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.testing.processors import build_processor
from mmdatasets.testing.standins import build_standin
from mmdatasets.transforms.drop_turns import turn_starts
from tests.conftest import ImageFactory
from tests.oracle import Message, assert_same_tensors, oracle_messages, processor_batch

FAMILIES = ["qwen2_vl", "qwen3_vl", "qwen2_5_omni", "llava_next", "llava_onevision", "gemma3", "mllama", "pixtral"]
STANDIN = "minicpm_v"
SIZES = [(60, 60), (200, 90), (90, 260), (330, 330)]
Chat: TypeAlias = list[Message]
Row: TypeAlias = "dict[str, object]"

words = st.lists(
    st.sampled_from(
        ["What", "is", "internationalisation", "of", "thé", "中文", "🦜🚀", "a\n\nb", "  ", "1234567", "."]
    ),
    min_size=1,
    max_size=8,
).map(" ".join)
images = st.integers(0, len(SIZES) - 1)


@st.composite
def chats(draw: st.DrawFn, max_images: int = 2) -> tuple[Chat, list[int]]:
    """A conversation of one to four turns, with the sizes of its images, some with a system prompt."""
    messages: Chat = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(words)})
    sizes: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        own = draw(st.lists(images, max_size=max_images))
        sizes += own
        # Media first, which every one of these templates writes where it stands.
        messages.append({"role": "user", "content": "<image>" * len(own) + draw(words)})
        messages.append({"role": "assistant", "content": draw(words)})
    return messages, sizes


@cache
def processor_of(family: str):
    return build_standin(family) if family == STANDIN else build_processor(family)


@cache
def plugin_of(family: str, **fields: object) -> BasePlugin:
    return auto_plugin(processor_of(family), **fields)


def fitted(family: str, chat: Chat, files: Sequence[Path], **fields: object) -> Row | None:
    """The row that is left of a chat, `None` where it is dropped."""
    made = plugin_of(family, **fields).transform({"messages": [chat], "images": [[str(file) for file in files]]})
    return {name: values[0] for name, values in made.items()} if made["input_ids"] else None


def taken(family: str, chat: Chat) -> Chat:
    """The chat without what the family's template does not take."""
    return [message for message in chat if family != "llava_next" or message["role"] != "system"]


def without_turns(chat: Chat, files: Sequence[Path], number: int) -> tuple[Chat, list[Path]]:
    """The chat without its oldest turns: these chats have two messages a turn, and at most one system prompt."""
    head = int(chat[0]["role"] == "system")
    gone = chat[head : head + 2 * number]
    num_images = sum(message["content"].count("<image>") for message in gone)
    return [*chat[:head], *chat[head + 2 * number :]], list(files[num_images:])


def encode(family: str, chat: Chat, files: Sequence[Path]) -> list[int]:
    """The ids of the processor's own call."""
    return processor_batch(processor_of(family), [chat], [files])["input_ids"][0].tolist()


def check_spans(family: str, row: Row) -> None:
    """No media item is divided: the row's media tokens are those of its items, within their spans."""
    ids = np.array(row["input_ids"])
    is_media = plugin_of(family).engine.is_media_token(ids)
    inside = np.zeros(len(ids), dtype=bool)
    for record in row["media_info"]:
        assert 0 <= record["start"] < record["end"] <= len(ids)
        inside[record["start"] : record["end"]] = True
        assert is_media[record["start"] : record["end"]].sum() == record["num_tokens"]
    assert not (is_media & ~inside).any()
    assert [record["item"] for record in row["media_info"]] == list(range(len(row["images"])))
    tokens = plugin_of(family).engine.tokenizer
    for opening, closing in (("<|vision_start|>", "<|vision_end|>"), ("<|vision_bos|>", "<|vision_eos|>")):
        both = tokens.convert_tokens_to_ids([opening, closing])
        assert (ids == both[0]).sum() == (ids == both[1]).sum()


# ------------------------------------------------------------------------------------------------------- drop_turns


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12)
@given(made=chats(), data=st.data())
def test_dropped_turns_leave_what_the_processor_makes_of_the_others(
    family: str, made: tuple[Chat, list[int]], data: st.DataObject, image_file: ImageFactory
) -> None:
    chat, sizes = taken(family, made[0]), made[1]
    files = [image_file(*SIZES[size]) for size in sizes]
    num_turns = sum(message["role"] == "user" for message in chat)
    shortened = [without_turns(chat, files, number) for number in range(num_turns)]
    encoded = [encode(family, *one) for one in shortened]
    max_length = data.draw(st.integers(min(map(len, encoded)) - 1, len(encoded[0])))
    row = fitted(family, chat, files, max_length=max_length, on_overflow="drop_turns")
    fits = [number for number, ids in enumerate(encoded) if len(ids) <= max_length]
    if not fits:
        assert row is None
        return
    number = fits[0]
    left, left_files = shortened[number]
    assert row["input_ids"] == encoded[number]
    assert [image["path"] for image in row["images"]] == [str(file) for file in left_files]
    unbounded = fitted(family, left, left_files)
    assert row["labels"] == unbounded["labels"]
    assert row["media_info"] == unbounded["media_info"]
    assert row["fit"]["original_length"] == len(encoded[0])
    assert row["fit"]["turns_dropped"] == number
    assert row["fit"]["outcome"] == ("cut" if number else "kept")
    check_spans(family, row)
    assert_same_tensors(
        plugin_of(family).collator()([row]), processor_batch(processor_of(family), [left], [left_files])
    )


def test_turns_begin_with_the_user() -> None:
    def starts(roles: str) -> list[int]:
        names = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
        return turn_starts([{"role": names[role], "content": ""} for role in roles])

    assert starts("suaua") == [1, 3]
    assert starts("uataua") == [0, 4]
    assert starts("sdaua") == [2, 3]
    assert starts("usaua") == [0, 3]
    assert starts("uua") == [0]
    assert starts("uuauuua") == [0, 3]
    assert starts("usua") == [0, 2]
    assert starts("s") == []


def test_tool_messages_go_with_their_turn_and_media_of_the_system_prompt_stays(image_file: ImageFactory) -> None:
    files = [image_file(*size) for size in SIZES]
    head = [{"role": "system", "content": "<image>Like this."}]
    first = [
        {"role": "user", "content": "<image>Where?"},
        {"role": "assistant", "content": "I look it up."},
        {"role": "tool", "content": "Bern"},
        {"role": "assistant", "content": "Bern."},
    ]
    last = [{"role": "user", "content": "<image><image>And here?"}, {"role": "assistant", "content": "Basel."}]
    short = encode("qwen2_vl", [*head, *last], [files[0], *files[2:]])
    row = fitted("qwen2_vl", [*head, *first, *last], files, max_length=len(short), on_overflow="drop_turns")
    assert row["input_ids"] == short
    assert [image["path"] for image in row["images"]] == [str(files[0]), str(files[2]), str(files[3])]
    assert (
        fitted("qwen2_vl", [*head, *first, *last], files, max_length=len(short) - 1, on_overflow="drop_turns") is None
    )


def test_a_photo_stays_with_the_question_that_follows_it_in_a_message_of_its_own(image_file: ImageFactory) -> None:
    files = [image_file(*size) for size in SIZES[:2]]
    turns = [
        [
            {"role": "user", "content": "<image>"},
            {"role": "user", "content": f"What is it, {number}?"},
            {"role": "assistant", "content": "A cat."},
        ]
        for number in range(2)
    ]
    last = encode("qwen2_vl", turns[1], files[1:])
    row = fitted("qwen2_vl", [*turns[0], *turns[1]], files, max_length=len(last), on_overflow="drop_turns")
    assert row["input_ids"] == last
    assert row["fit"]["turns_dropped"] == 1
    assert fitted("qwen2_vl", turns[1], files[1:], max_length=len(last) - 1, on_overflow="drop_turns") is None


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "deepseekv3"])
def test_templates_that_rewrite_history(name: str, trl_template) -> None:
    thought = {"role": "assistant", "content": "<think>\nHm, let me see.\n</think>\n\nBlue."}
    chat = [message for turn in range(4) for message in ({"role": "user", "content": f"Number {turn}?"}, thought)]
    template = trl_template(name)
    tokenizer = processor_of("qwen2_vl").tokenizer
    encoded = [
        tokenizer.apply_chat_template(chat[2 * number :], chat_template=template, return_dict=True)["input_ids"]
        for number in range(4)
    ]
    for number in range(4):
        row = fitted(
            "qwen2_vl", chat, [], max_length=len(encoded[number]), on_overflow="drop_turns", chat_template=template
        )
        assert row["input_ids"] == encoded[number]


# --------------------------------------------------------------------------------------------------------- truncate


def rendered(family: str, chat: Chat, files: Sequence[Path]) -> str:
    if family == STANDIN:
        own = plugin_of(family).engine.runner.placeholders["image"]
        strings = [{**message, "content": message["content"].replace("<image>", own)} for message in chat]
        return processor_of(family).tokenizer.apply_chat_template(strings, tokenize=False)
    return processor_of(family).apply_chat_template(oracle_messages(chat, files), tokenize=False)


def call(family: str, text: str, files: Sequence[Path]) -> dict[str, object]:
    """The processor's own call on a text, as its `apply_chat_template` makes it."""
    processor = processor_of(family)
    bos = processor.tokenizer.bos_token
    opened = [PIL.Image.open(file).convert("RGB") for file in files]
    return processor(
        text=[text],
        images=[opened] if opened else None,
        return_tensors="pt",
        text_kwargs={"add_special_tokens": not (bos is not None and text.startswith(bos))},
    )


def begun(family: str, text: str, files: Sequence[Path], ids: Sequence[int], num_images: int) -> str | None:
    """The beginning of a rendered text of which the processor makes these ids, with the first of its images."""
    placeholder = plugin_of(family).engine.runner.placeholders["image"]
    places = [at for at in range(len(text)) if text.startswith(placeholder, at)] + [len(text)]
    low, high = (places[num_images - 1] + len(placeholder) if num_images else 0), places[num_images]
    last = plugin_of(family).engine.tokenizer.decode(list(ids)[-2:], clean_up_tokenization_spaces=False)[-4:]
    likely = sorted(range(low, high + 1), key=lambda end: not text[:end].endswith(last))
    for end in likely:
        if call(family, text[:end], files[:num_images])["input_ids"][0].tolist() == list(ids):
            return text[:end]
    return None


@pytest.mark.parametrize("family", [*FAMILIES, STANDIN])
@settings(max_examples=8)
@given(made=chats(max_images=1), data=st.data())
def test_a_truncated_row_is_what_the_processor_makes_of_the_text_up_to_there(
    family: str, made: tuple[Chat, list[int]], data: st.DataObject, image_file: ImageFactory
) -> None:
    chat, sizes = taken(family, made[0])[:5], made[1]
    sizes = sizes[: sum(message["content"].count("<image>") for message in chat)]
    files = [image_file(*SIZES[size]) for size in sizes]
    whole = fitted(family, chat, files)
    max_length = data.draw(st.integers(1, whole["length"]))
    row = fitted(family, chat, files, max_length=max_length, on_overflow="truncate")
    if row is None:
        return  # the places where nothing trained is left are another test's
    length = row["length"]
    assert length <= max_length
    assert row["input_ids"] == whole["input_ids"][:length]
    assert row["labels"] == whole["labels"][:length]
    assert row["media_info"] == [record for record in whole["media_info"] if record["start"] < length]
    assert [image["path"] for image in row["images"]] == [str(file) for file in files[: len(row["media_info"])]]
    check_spans(family, row)
    text = rendered(family, chat, files)
    beginning = begun(family, text, files, row["input_ids"], len(row["images"]))
    assert beginning is not None
    theirs = call(family, beginning, files[: len(row["images"])])
    if family != STANDIN:
        assert_same_tensors(plugin_of(family).collator()([row]), {**theirs}, ignore=("labels",))


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_it_is_cut_at_the_last_place_where_that_holds(family: str, image_file: ImageFactory) -> None:
    chat = [
        {"role": "user", "content": "<image>What is 🦜🚀?"},
        {"role": "assistant", "content": "Internationalisation  of\n\nit."},
        {"role": "user", "content": "<image>And?"},
        {"role": "assistant", "content": "Another."},
    ]
    files = [image_file(60, 60), image_file(90, 260)]
    whole = fitted(family, chat, files)
    text = rendered(family, chat, files)
    placeholder = plugin_of(family).engine.runner.placeholders["image"]
    around = plugin_of(family).engine.markup("image", 0)
    ends = []
    for end in range(1, len(text) + 1):
        number = text[:end].count(placeholder)
        ids = call(family, text[:end], files[:number])["input_ids"][0].tolist()
        at_item = any(
            text.find(placeholder, start) - len(around[0])
            < end
            < text.find(placeholder, start) + len(placeholder + around[1])
            for start in range(0, len(text), 7)
            if placeholder in text[start:]
        )
        if ids == whole["input_ids"][: len(ids)] and not at_item:
            ends.append(len(ids))
    first = int(np.flatnonzero(np.array(whole["labels"]) != -100)[0])
    spans = [(record["start"], record["end"]) for record in whole["media_info"]]
    within = {at for start, end in spans for at in range(start + 4, end - 4) if at % 16}
    for max_length in set(range(1, whole["length"] + 1)) - within:
        row = fitted(family, chat, files, max_length=max_length, on_overflow="truncate")
        best = max((end for end in ends if end <= max_length), default=0)
        if best <= first:
            assert row is None
        else:
            assert row["length"] == best, max_length


def test_control_tokens_that_users_typed_are_not_cut(image_file: ImageFactory) -> None:
    chat = [
        {"role": "user", "content": "Say it."},
        {"role": "assistant", "content": "a <|vision_start|> b <|im_end|> c <|image_pad|> d"},
    ]
    whole = fitted("qwen2_vl", chat, [])
    tokenizer = processor_of("qwen2_vl").tokenizer
    ends = []
    for max_length in range(1, whole["length"]):
        row = fitted("qwen2_vl", chat, [], max_length=max_length, on_overflow="truncate")
        if row is not None:
            assert row["input_ids"] == whole["input_ids"][: row["length"]]
            said = tokenizer.decode(row["input_ids"]).partition("assistant\n")[2]
            assert (chat[1]["content"] + "<|im_end|>\n").startswith(said)
            ends.append(said)
    literal = ("<|vision_start|>", "<|im_end|>", "<|image_pad|>")
    content = chat[1]["content"]
    inside = {content[:at] for one in literal for at in range(content.index(one) + 1, content.index(one) + len(one))}
    assert len(set(ends)) > 5
    assert not inside & set(ends)


# ------------------------------------------------------------------------------------------------- drop, error, rest


def test_error_names_row_length_and_limit(image_file: ImageFactory) -> None:
    chat = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "This."}]
    plugin = plugin_of("qwen2_vl", max_length=20)
    batch = {"messages": [chat[1:], chat], "images": [[], [str(image_file(330, 330))]]}
    with pytest.raises(
        RowTooLongError, match=r"row 8: it has \d+ tokens, 144 of them of 1 media item.*max_length is 20"
    ):
        plugin.transform(batch, indices=[7, 8])
    with pytest.raises(RowTooLongError, match="row 1 of the batch"):
        plugin.transform(batch)


def test_rows_that_train_nothing_are_dropped() -> None:
    quiet = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "This.", "train": False}]
    loud = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "This."}]
    batch = {"messages": [quiet, loud]}
    assert len(plugin_of("qwen2_vl").transform(batch)["input_ids"]) == 2
    made = plugin_of("qwen2_vl", max_length=1000).transform(batch)
    assert [record["outcome"] for record in made["fit"]] == ["kept"]
    assert made["input_ids"] == plugin_of("qwen2_vl").transform({"messages": [loud]})["input_ids"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 0}, "max_length must be a positive number"),
        ({"max_length": True}, "max_length must be a positive number"),
        ({"max_length": 9, "on_overflow": "cut"}, "on_overflow='cut' is none of 'error', 'drop', 'drop_turns'"),
        ({"on_overflow": "drop"}, "on_overflow='drop' needs max_length"),
        ({"max_length": 9, "row_log": "s3://bucket/log"}, "row_log must be a local directory"),
        ({"max_length": 9, "shrink_floor": 3}, "shrink_floor must be"),
    ],
)
def test_fields_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auto_plugin(processor_of("qwen2_vl"), **fields)
    with pytest.raises(ValueError, match="video_frames must be a positive integer"):
        ShrinkFloor(video_frames=0)


def test_a_column_named_fit_is_not_overwritten() -> None:
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "This."}]
    with pytest.raises(ConversationError, match="would overwrite the column"):
        plugin_of("qwen2_vl", max_length=99).transform({"messages": [chat], "fit": [1]})
    plugin_of("qwen2_vl").transform({"messages": [chat], "fit": [1]})


def test_texts_have_no_turns_to_drop_but_can_be_cut() -> None:
    text = "One two three four. " * 20
    batch = {"text": [text]}
    whole = plugin_of("qwen2_vl", layout="text").transform(batch)
    made = plugin_of("qwen2_vl", layout="text", max_length=30, on_overflow="truncate").transform(batch)
    assert made["input_ids"][0] == whole["input_ids"][0][:30]
    made = plugin_of("qwen2_vl", layout="text", max_length=30, on_overflow="drop_turns").transform(batch)
    assert made["input_ids"] == []
