"""Our chat templates against the published ones, which the `trl` package ships."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.testing import build_tokenizer, read_chat_template

TEMPLATES = ["qwen2_5_vl", "qwen3_vl"]
TOKENIZER = build_tokenizer(["<|im_start|>", "<|im_end|>"])


def published(name):
    package = importlib.util.find_spec("trl")
    assert package is not None, "the published templates come with trl: pip install 'mmdatasets[dev]'"
    return (Path(package.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def outcome(template, conversation, options):
    """The rendered text, or the type of the error where the template refuses the conversation."""
    try:
        return TOKENIZER.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)
    except Exception as error:
        return type(error)


def assert_same(name, conversation, **options):
    expected = outcome(published(name), conversation, options)
    assert outcome(read_chat_template(name), conversation, options) == expected
    return expected


IMAGE, VIDEO = {"type": "image"}, {"type": "video"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Says <the> "weather" & more, für jeden Ort',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": [1, 2]}}}


def text(value):
    return {"type": "text", "text": value}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "one question": [turn("user", "Hi")],
    "system first": [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello")],
    "typed system": [turn("system", [text("Be "), text("brief.")]), turn("user", [text("Hi")])],
    "system with an image": [turn("system", [IMAGE, text("See.")]), turn("user", "Hi")],
    "system later": [turn("user", "Hi"), turn("system", "Be brief."), turn("user", "Again")],
    "two systems": [turn("system", "a"), turn("system", "b"), turn("user", "Hi")],
    "images": [turn("user", [IMAGE, text(" and "), IMAGE, text("?")]), turn("assistant", [text("Yes")])],
    "image and video": [turn("user", [VIDEO, IMAGE, VIDEO]), turn("assistant", "Yes"), turn("user", [IMAGE])],
    "image by key": [turn("user", [{"image": "a.png"}, {"type": "image_url", "image_url": {"url": "b"}}])],
    "video by key": [turn("user", [{"video": "a.mp4"}, {"type": "video", "fps": 2}])],
    "image column that is empty": [turn("user", [{"type": "text", "text": "a", "image": None}])],
    "both columns": [turn("user", [{"type": "video", "image": None, "video": "a"}])],
    "assistant shows an image": [turn("user", "Draw"), turn("assistant", [text("Here: "), IMAGE, VIDEO])],
    "whitespace": [turn("user", "  a\n\n"), turn("assistant", "\n b \t"), turn("user", [text(" \n"), text("\n")])],
    "markup": [turn("user", "{{ 1 }} {% if %} <b>&amp;</b> '\"\\n"), turn("assistant", "<|im_end|>")],
    "empty": [turn("user", ""), turn("assistant", []), turn("user", [])],
    "thoughts": [turn("user", "Hi"), turn("assistant", "<think>\nhm\n</think>\n\nHello")],
    "tool call": [
        turn("user", "Weather?"),
        turn("assistant", "", tool_calls=[CALL]),
        turn("tool", '{"sky": "grey"}'),
        turn("assistant", "Grey."),
    ],
    "tool calls after words": [
        turn("user", "Weather?"),
        turn("assistant", "Let me see.", tool_calls=[CALL, CALL["function"], {"name": "f", "arguments": '{"a": 1}'}]),
        turn("tool", [text("grey"), IMAGE]),
        turn("tool", [VIDEO, text("rain")]),
        turn("user", [IMAGE, text("And here?")]),
        turn("assistant", [text("One moment.")], tool_calls=[CALL]),
        turn("tool", "sunny"),
    ],
    "tool turn first": [turn("tool", "a"), turn("tool", "b"), turn("user", "c"), turn("tool", "d")],
    "no tool calls": [turn("user", "Hi"), turn("assistant", "Hello", tool_calls=[]), turn("user", "?")],
    "tool calls are null": [turn("user", "Hi"), turn("assistant", "Hello", tool_calls=None)],
    "no arguments": [turn("user", "Hi"), turn("assistant", "", tool_calls=[{"name": "f", "arguments": {}}])],
    "unknown role": [turn("user", "Hi"), turn("narrator", "Meanwhile"), turn("assistant", "Hello")],
    "unknown part": [turn("user", [{"type": "audio"}, {"type": "smell", "text": "rose"}])],
    "strings as parts": [turn("user", ["an image", "a video", "some text", "else"])],
    "content is null": [turn("user", "Hi"), turn("assistant", None, tool_calls=[CALL])],
    "content is a number": [turn("user", 5)],
    "no content": [{"role": "user"}, {"role": "assistant", "tool_calls": [CALL]}],
}
OPTIONS = {
    "plain": {},
    "generation prompt": {"add_generation_prompt": True},
    "vision ids": {"add_vision_id": True},
    "one tool": {"tools": [TOOL]},
    "everything": {"tools": [TOOL, TOOL], "add_vision_id": True, "add_generation_prompt": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_published(name, conversation, options):
    assert_same(name, conversation, **options)


def test_the_cases_render_what_they_are_meant_to():
    expected = assert_same("qwen3_vl", CONVERSATIONS["tool calls after words"], **OPTIONS["everything"])
    for piece in (
        "Picture 2: <|vision_start|><|image_pad|>",
        "Video 1: ",
        "<tool_response>\n",
        '"city": "Köln"',
        "# Tools",
    ):
        assert piece in expected
    assert assert_same("qwen3_vl", CONVERSATIONS["content is a number"]) is TypeError
    assert "helpful assistant" in assert_same("qwen2_5_vl", CONVERSATIONS["one question"])


words = st.text(st.characters(codec="utf-8"), max_size=12)
parts = st.one_of(
    words.map(text),
    st.sampled_from(
        [IMAGE, VIDEO, {"type": "image", "image": "a.png"}, {"type": "video", "video": "a.mp4"}, {"text": "t"}]
    ),
)
contents = st.one_of(words, st.lists(parts, max_size=4))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
functions = st.fixed_dictionaries(
    {"name": words, "arguments": words | st.dictionaries(words, json_values, max_size=2)}
)
calls = functions | functions.map(lambda function: {"type": "function", "function": function})
turns = st.one_of(
    st.builds(turn, st.sampled_from(["user", "assistant", "system", "tool"]), contents),
    st.builds(
        lambda content, tool_calls: turn("assistant", content, tool_calls=tool_calls),
        contents,
        st.lists(calls, max_size=3),
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(TEMPLATES),
    conversation=st.lists(turns, min_size=1, max_size=6),
    tools=st.none() | st.lists(st.just(TOOL), max_size=2),
    add_vision_id=st.booleans(),
    add_generation_prompt=st.booleans(),
)
def test_renders_any_conversation_as_published(name, conversation, **options):
    assert isinstance(assert_same(name, conversation, **options), str)
