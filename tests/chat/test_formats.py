from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.data_utils import prepare_multimodal_messages

from mmdatasets.chat.formats import normalise
from mmdatasets.errors import ConversationError, PlaceholderError

TEXT = {"type": "text"}
IMAGE = {"type": "image"}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def test_placeholders_become_parts_in_order() -> None:
    result = normalise([user("<image>\nWhat <image>?"), assistant("x")], {"image": ["a.jpg", "b.jpg"]})
    assert result.references("image") == ["a.jpg", "b.jpg"]
    assert result.messages[0]["content"] == [IMAGE, {**TEXT, "text": "\nWhat "}, IMAGE, {**TEXT, "text": "?"}]
    assert result.messages[1] == assistant("x")


def test_a_message_without_placeholder_keeps_its_string() -> None:
    assert normalise([user("hi"), assistant("ho")]).messages == [user("hi"), assistant("ho")]


def test_parts_and_inline_references_keep_the_order_of_the_text() -> None:
    parts = [
        IMAGE,
        {"type": "image", "image": "inline.png"},
        {"type": "image_url", "image_url": {"url": "u.png"}},
        IMAGE,
    ]
    result = normalise([user(parts)], {"image": ["a", "b"]})
    assert result.references("image") == ["a", "inline.png", "u.png", "b"]
    assert result.messages[0]["content"] == [IMAGE] * 4


def test_keys_without_value_are_dropped() -> None:
    parts = [{"type": "image", "text": None, "image": None}, {"type": "text", "text": "t", "image": None}]
    result = normalise([{"role": "user", "content": parts, "tool_calls": None}], {"image": ["a"]})
    assert result.messages == [user([IMAGE, {**TEXT, "text": "t"}])]


def test_typed_text_when_parts_already_match_stays_text() -> None:
    result = normalise([user([IMAGE, {**TEXT, "text": "the tag <image>"}])], {"image": ["a"]})
    assert result.messages[0]["content"][1]["text"] == "the tag <image>"


def test_placeholder_in_an_answer_without_media_stays_text() -> None:
    assert normalise([user("How?"), assistant("Write <image>.")]).messages[1]["content"] == "Write <image>."
    result = normalise([user("<image>How?"), assistant("Write <image>.")], {"image": ["a"]})
    assert result.messages[1]["content"] == "Write <image>."
    assert result.references("image") == ["a"]


def test_an_image_in_an_answer_counts_when_the_row_has_it() -> None:
    result = normalise([user("Draw <image>"), assistant("<image>")], {"image": ["a", "b"]})
    assert result.messages[1]["content"] == [IMAGE]


@pytest.mark.parametrize(("text", "images"), [("<image>", ["a", "b"]), ("<image><image>", ["a"]), ("none", ["a"])])
def test_a_mismatch_names_both_counts(text: str, images: list[str]) -> None:
    with pytest.raises(PlaceholderError) as caught:
        normalise([user(text), assistant("x")], {"image": images})
    assert f"{text.count('<image>')} image placeholder" in str(caught.value)
    assert f"{len(images)} image(s)" in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "NoneType"),
        ([], "empty list"),
        ("text", "str"),
        (["text"], "message 0"),
        ([{"content": "x"}], "no 'role'"),
        ([{"role": "user"}], "'content'"),
        ([{"role": "user", "content": 5}], "int"),
        ([user([{"type": "hologram", "text": "x"}])], "'hologram'"),
        ([user([5])], "no mapping"),
    ],
)
def test_other_shapes_say_what_was_found(messages: object, said: str) -> None:
    with pytest.raises(ConversationError, match=r"expected|message 0") as caught:
        normalise(messages)
    assert said in str(caught.value)


def test_a_turn_of_tool_calls_needs_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert "content" not in normalise([user("x"), call]).messages[1]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_splitting_loses_no_text(texts: list[str]) -> None:
    content = "<image>".join(texts)
    count = content.count("<image>")
    result = normalise([user(content)], {"image": list(range(count)), "video": [], "audio": []})
    parts = result.messages[0]["content"]
    if isinstance(parts, str):
        assert count == 0
        return
    assert "".join("<image>" if part == IMAGE else part["text"] for part in parts) == content
    assert result.references("image") == list(range(count))


# --------------------------------------------------------------------------------------------- media without a place


def test_media_without_a_place_stands_before_the_first_question() -> None:
    """As TRL's `prepare_multimodal_messages` places images in chats of strings."""
    system = {"role": "system", "content": "Be brief."}
    chat = [system, user("What?"), assistant("This <image> tag."), user("And?"), assistant("That.")]
    result = normalise(chat, {"image": ["a.jpg", "b.jpg"]}, unplaced="first_user")
    ours = [[part["type"] for part in message["content"]] for message in result.messages[1:2]]
    theirs = prepare_multimodal_messages(chat, images=["a.jpg", "b.jpg"])[1]["content"]
    assert ours == [[part["type"] for part in theirs]] == [["image", "image", "text"]]
    assert result.references("image") == ["a.jpg", "b.jpg"]
    assert [result.messages[0], *result.messages[2:]] == [chat[0], *chat[2:]]


def test_each_modality_is_placed_by_itself_and_what_has_a_place_keeps_it() -> None:
    media = {"image": ["a.jpg"], "video": ["b.mp4"], "audio": ["c.wav"]}
    result = normalise([user("What <video>?"), assistant("x")], media, unplaced="first_user")
    types = [part["type"] for part in result.messages[0]["content"]]
    assert types == ["image", "audio", "text", "video", "text"]
    assert [item.reference for item in result.media] == ["a.jpg", "c.wav", "b.mp4"]
    placed = normalise([user("Hm."), assistant("?"), user([IMAGE])], {"image": ["a.jpg"]}, unplaced="first_user")
    assert placed.messages == normalise([user("Hm."), assistant("?"), user([IMAGE])], {"image": ["a.jpg"]}).messages
    with pytest.raises(PlaceholderError, match=r"1 image placeholder\(s\).*the row has 2 image\(s\)"):
        normalise([user("<image>")], {"image": ["a.jpg", "b.jpg"]}, unplaced="first_user")
    with pytest.raises(PlaceholderError, match=r"unplaced_media='first_user'"):
        normalise([user("What?")], {"image": ["a.jpg"]})
    with pytest.raises(PlaceholderError, match=r"0 image placeholder"):
        normalise([assistant("What?")], {"image": ["a.jpg"]}, unplaced="first_user")
