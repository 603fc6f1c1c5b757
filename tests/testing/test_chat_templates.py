"""Our chat templates against the published ones, which the `trl` package ships."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.testing import build_processor, build_tokenizer, get_spec, list_processors, read_chat_template

TEMPLATES = ["qwen2_5_vl", "qwen3_vl"]
# One file serves these; the published ones write their own beginning where ours writes `bos_token`.
FILES = {"smolvlm": "idefics3"}
BEGINNINGS = {"smolvlm": "<|im_start|>", "idefics3": "<|begin_of_text|>"}
TOKENIZER = build_tokenizer(["<|im_start|>", "<|im_end|>"], bos_token="<s>", eos_token="</s>")

# Templates without the tools of the published ones: equal on turns of text, images and, where there are any, thoughts.
PUBLISHED_AS = {
    "gemma3": "gemma3",
    "gemma4": "gemma4_v5",
    "lfm2_vl": "lfm2_2_5_vl",
    "llava_next": "llava_next",
    "qwen3_5": "qwen3_5_nothink",
    "smolvlm": "smolvlm",
    "idefics3": "idefics3",
}


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
    expected = outcome(published(PUBLISHED_AS.get(name, name)), conversation, options)
    if name in BEGINNINGS and isinstance(expected, str):
        expected = TOKENIZER.bos_token + expected.removeprefix(BEGINNINGS[name])
    assert outcome(read_chat_template(FILES.get(name, name)), conversation, options) == expected
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


def conversations(name):
    """Turns in any order, then also those that a family's template accepts, as most random orders are refused."""
    texts = words | st.sampled_from(["<think>a</think> b ", "<|channel>thought\na<channel|> b", " \n c"])
    typed = st.lists(texts.map(text) | st.just(IMAGE), max_size=4)
    # These published templates take no strings; ours do.
    content = typed if name in ("llava_next", "smolvlm", "idefics3") else texts | typed
    thoughts = st.fixed_dictionaries({}, optional={"reasoning": texts, "reasoning_content": texts})
    spoken = st.builds(lambda content, more: turn("assistant", content, **more), content, thoughts)
    any_turn = spoken | st.builds(turn, st.sampled_from(["user", "assistant", "system"]), content)
    system = st.lists(st.builds(turn, st.just("system"), content), max_size=1)
    pairs = st.lists(st.tuples(st.builds(turn, st.just("user"), content), spoken), min_size=1, max_size=3)
    return st.one_of(
        st.lists(any_turn, min_size=1, max_size=5),
        st.builds(lambda first, rest: [*first, *(one for pair in rest for one in pair)], system, pairs),
    )


@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", PUBLISHED_AS)
@given(data=st.data(), add_generation_prompt=st.booleans())
def test_renders_any_turns_as_published(name, data, add_generation_prompt):
    assert_same(name, data.draw(conversations(name)), add_generation_prompt=add_generation_prompt)


def test_thinking_is_switched_on_as_published():
    for conversation in (CONVERSATIONS["one question"], CONVERSATIONS["system first"], CONVERSATIONS["typed system"]):
        assert "<|think|>" in assert_same("gemma4", conversation, enable_thinking=True)
    kept = [turn("user", "a"), turn("assistant", "b", thinking="hm"), turn("user", "c")]
    assert "<think>hm</think>" in assert_same("lfm2_vl", kept, preserve_thinking=True)
    assert "<think>" not in assert_same("lfm2_vl", kept)
    for enable_thinking in (True, False):
        assert_same("qwen3_5", kept, enable_thinking=enable_thinking, add_generation_prompt=True)


# A system turn, a question about every kind of media that the family takes, and an answer.
RENDERED = {
    "ernie4_5_vl": "<|begin_of_sentence|>Be brief.\nUser: Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    "Video 1:<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>What?\nAssistant: A dog.<|end_of_sentence|>",
    "gemma3": "<bos><start_of_turn>user\nBe brief.\n\n<start_of_image>What?<end_of_turn>\n"
    "<start_of_turn>model\nA dog.<end_of_turn>\n",
    "gemma3n": "<bos><start_of_turn>user\nBe brief.\n\n<image_soft_token><audio_soft_token>What?<end_of_turn>\n"
    "<start_of_turn>model\nA dog.<end_of_turn>\n",
    "gemma4": "<bos><|turn>system\nBe brief. <turn|>\n<|turn>user\n<|image|><|video|><|audio|>What?<turn|>\n"
    "<|turn>model\nA dog.<turn|>\n",
    "glm4v": "[gMASK]<sop><|system|>\nBe brief.<|user|>\n<|begin_of_image|><|image|><|end_of_image|>"
    "<|begin_of_video|><|video|><|end_of_video|>What?<|assistant|>\nA dog.",
    "internvl": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\n<video>\nWhat?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "kimi_k25": "<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|>"
    "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n<|kimi_k25_video_placeholder|>What?<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|>A dog.<|im_end|>",
    "lfm2_vl": "<|startoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "llama4": "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|>"
    "<|header_start|>user<|header_end|>\n\n<|image|>What?<|eot|>"
    "<|header_start|>assistant<|header_end|>\n\nA dog.<|eot|>",
    "llava": "Be brief. USER: <image>\nWhat? ASSISTANT: A dog. ",
    "llava_next": "<<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] <image>\nWhat? [/INST] A dog.</s> ",
    "llava_onevision": "<|im_start|>system \nBe brief.<|im_end|><|im_start|>user <image><video>\nWhat?<|im_end|>"
    "<|im_start|>assistant \nA dog.<|im_end|>",
    "llava_next_video": "Be brief. USER: <image>\n<video>\nWhat? ASSISTANT: A dog. ",
    "minicpmv4_6": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|image_pad|>\n<|video_pad|>\nWhat?"
    "<|im_end|>\n<|im_start|>assistant\nA dog.<|im_end|>\n",
    "mistral3": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST][IMG]What?[/INST]A dog.</s>",
    "mllama": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<|image|>What?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA dog.<|eot_id|>",
    "perception_lm": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|image|><|video|>What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "phi4_multimodal": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|image|><|audio|>What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "hunyuan_vl": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<img><image></img>What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "paligemma": "Be brief.\n<image>What?\nA dog.<eos>",
    "pixtral": "<s>[INST][IMG]What?[/INST]A dog.</s>",
    "qwen2_5_omni": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|>"
    "<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "qwen2_audio": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>"
    "\nWhat?<|im_end|>\n<|im_start|>assistant\nA dog.<|im_end|>\n",
    "qwen3_omni_moe": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "<|vision_start|><|video_pad|><|vision_end|><|audio_start|><|audio_pad|><|audio_end|>What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "vibevoice_asr": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    "<|object_ref_start|><|box_start|><|object_ref_end|>\nThis is a <|AUDIO_DURATION|> seconds audio.What?<|im_end|>\n"
    "<|im_start|>assistant\nA dog.<|im_end|>\n",
    "video_llava": "Be brief. USER: <image>\n<video>\nWhat? ASSISTANT: A dog. ",
}


def use_tools(conversation):
    return any(message["role"] == "tool" or message.get("tool_calls") for message in conversation)


@pytest.mark.parametrize("options", [OPTIONS[key] for key in ("plain", "generation prompt", "vision ids")])
@pytest.mark.parametrize("case", [key for key, turns in CONVERSATIONS.items() if not use_tools(turns)])
def test_qwen3_5_renders_pictures_and_videos_as_published(case, options):
    assert_same("qwen3_5", CONVERSATIONS[case], **options)


def test_every_template_is_compared_with_something():
    compared = {read_chat_template(FILES.get(name, name)) for name in [*TEMPLATES, *PUBLISHED_AS]}
    compared |= {build_processor(name).chat_template for name in RENDERED}
    assert [name for name in list_processors() if build_processor(name).chat_template not in compared] == []


@pytest.mark.parametrize("name", RENDERED)
def test_renders_a_conversation(name):
    media = [{"type": kind} for kind in get_spec(name).modalities]
    conversation = [
        turn("system", [text("Be brief.")]),
        turn("user", [*media, text("What?")]),
        turn("assistant", [text("A dog.")]),
    ]
    assert build_processor(name).apply_chat_template(conversation, tokenize=False) == RENDERED[name]


@pytest.mark.parametrize("name", list_processors())
def test_a_string_is_one_part_of_text(name):
    processor = build_processor(name)
    words = [("system", "Be brief."), ("user", "Hi <b> you"), ("assistant", "Hello"), ("user", "And?")]
    rendered = [
        processor.apply_chat_template(
            [turn(role, content(value)) for role, value in words], tokenize=False, add_generation_prompt=True
        )
        for content in (str, lambda value: [text(value)])
    ]
    # Gemma 4's published template puts a space behind a part of the system turn, and none behind a string.
    assert rendered[0] == rendered[1].replace("Be brief. <turn|>", "Be brief.<turn|>")
    assert all(value in rendered[0] for _, value in words)
