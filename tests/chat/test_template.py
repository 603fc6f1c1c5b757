"""What is trained of a rendered conversation, template by template where they differ."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from mmdatasets.chat import traced
from mmdatasets.chat.labels import TrainOn
from mmdatasets.chat.template import ChatTemplate
from mmdatasets.errors import ConversationError, TemplateError
from tests.chat.chats import CHATS, SYSTEM, TOOLS, Messages, assistant, call, tool, user

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "tools": TOOLS}
TURNS = [user("a"), assistant("b"), user("c"), assistant("d")]


def trained(source: str, messages: Messages, train_on: TrainOn = "assistant") -> list[str]:
    rendered = ChatTemplate(source, VARIABLES, train_on).render(messages)
    return [rendered.text[start:end] for start, end in rendered.trained_spans]


# --------------------------------------------------------------------------------------------- published templates


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6"])
def test_a_template_that_drops_earlier_reasoning(name: str, trl_template) -> None:
    expected = ["First.<|im_end|>\n", "<think>\nThink twice.\n</think>\n\nSecond.<|im_end|>\n"]
    assert trained(trl_template(name), CHATS["reasoning in turns"]) == expected
    assert trained(trl_template(name), CHATS["several turns"])[:2] == ["First.<|im_end|>\n", "Second.<|im_end|>\n"]


def test_a_template_whose_end_of_turn_token_is_the_next_turns_first(trl_template) -> None:
    messages = [user("a"), assistant("b"), user("c"), call("Paris"), tool("sunny"), assistant("d")]
    first, second, third = trained(trl_template("glm4moe"), messages)
    assert first == "\n<think></think>\nb<|user|>"
    assert second.startswith("\n<think></think>\n<tool_call>look_up\n")
    assert second.endswith("</tool_call><|observation|>")
    assert third == "\n<think></think>\nd"


def test_a_template_that_writes_answers_of_tools_into_the_turn(trl_template) -> None:
    for name in ("gemma4", "gemma4_v3", "gemma4_v4", "gemma4_v5", "diffusion_gemma"):
        spans = trained(trl_template(name), CHATS["call with answers"])
        assert spans[0].startswith("<|tool_call>call:look_up{city:")
        assert spans[-1] == "Nice.<turn|>\n"
        assert not any("14 C" in span or "18 C" in span for span in spans)


def test_answers_of_tools_inside_of_a_message_are_not_trained(trl_template) -> None:
    responses = [{"name": "look_up", "response": {"sky": "sunny"}}]
    spans = trained(trl_template("gemma4"), [user("Paris?"), call("Paris", content="Nice.", tool_responses=responses)])
    assert spans[-1] == "Nice.<turn|>\n"
    assert not any("sunny" in span for span in spans)


def test_the_header_after_a_tools_answer(trl_template) -> None:
    chat = [
        user("a"),
        {"role": "tool", "content": "sunny"},
        assistant("b"),
        user("c"),
        {"role": "tool", "content": "wet"},
        assistant("d"),
    ]
    assert trained(trl_template("deepseekv3"), chat) == [
        "b<\uff5cend\u2581of\u2581sentence\uff5c>",
        "d<\uff5cend\u2581of\u2581sentence\uff5c>",
    ]


def test_a_default_system_prompt_in_the_first_message(trl_template) -> None:
    rendered = ChatTemplate(trl_template("qwen2_5_vl"), VARIABLES).render([assistant("Hello!"), user("Hi.")])
    assert "You are a helpful assistant." in rendered.text
    assert [rendered.text[start:end] for start, end in rendered.trained_spans] == ["Hello!<|im_end|>\n"]


def test_a_final_eos_token_is_trained_behind_an_answer_only(trl_template) -> None:
    assert trained(trl_template("phi3"), TURNS) == ["b<|end|>\n", "d<|end|>\n</s>"]
    assert trained(trl_template("phi3"), TURNS[:3]) == ["b<|end|>\n"]


# ------------------------------------------------------------------------------------------ templates of other kinds

INDEXED = (
    "{% for i in range(messages | length) %}{% set message = messages[i] %}{% set before = messages[i - 1] %}"
    "<{{ message.role }}>{{ message.content }}</{{ before.role }}>{% endfor %}"
)
PROMPT_IN_LOOP = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }};"
    "{% if loop.last and add_generation_prompt %}<assistant>{% endif %}{% endfor %}"
)
COLLECTED = (
    "{% set ns = namespace(text='') %}{% for m in messages %}"
    "{% set ns.text = ns.text + '<' + m.role + '>' + m.content + ';' %}{% endfor %}"
    "{{ ns.text }}{% if add_generation_prompt %}<assistant>{% endif %}"
)
IN_BLOCK = "{% set text %}" + PROMPT_IN_LOOP + "{% endset %}{{ text }}"
UNROLLED = (
    "{% for m in messages recursive %}<{{ m.role }}>{{ m.content }};{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt }}"
)


def test_a_loop_over_positions() -> None:
    assert trained(INDEXED, TURNS) == ["<assistant>b</user>", "<assistant>d</user>"]


@pytest.mark.parametrize("source", [PROMPT_IN_LOOP, COLLECTED, IN_BLOCK, UNROLLED])
def test_a_template_that_collects_its_text(source: str) -> None:
    assert trained(source, TURNS) == ["b;", "d;"]
    assert trained(source, TURNS[:3]) == ["b;"]
    assert trained(source, [user("a"), assistant(""), user("a"), assistant("a")]) == [";", "a;"]


def test_where_both_ways_fail_the_templates_part_is_shown() -> None:
    source = (
        "{% set ns = namespace(text='') %}\n{% for m in messages %}\n"
        "{% set ns.text = ns.text + '[' ~ messages|length ~ m.content ~ ']' %}{% endfor %}\n{{ ns.text }}"
    )
    with pytest.raises(TemplateError, match=r"message 1.*line 2: \{% for m in messages %\}") as caught:
        trained(source, TURNS)
    assert "{% generation %}" in str(caught.value)


def test_a_template_that_fails_names_roles_and_line() -> None:
    source = "{% for m in messages %}\n{{ m.content }}\n{{ raise_exception('roles must alternate') }}{% endfor %}"
    with pytest.raises(TemplateError, match=r"of user, user: roles must alternate \(at line 3: \{\{ raise_exc"):
        trained(source, [user("x")] * 2)


def test_a_template_that_does_not_parse_names_the_line() -> None:
    with pytest.raises(TemplateError, match=r"not valid \(at line 2: \{% endif %\}\)"):
        trained("{{ x }}\n{% endif %}", TURNS)


def test_a_message_of_which_nothing_is_written_has_nothing_trained() -> None:
    source = (
        "{% for m in messages if m.content %}<{{ m.role }}>{{ m.content }};{% endfor %}"
        "{{ '<assistant>' if add_generation_prompt }}"
    )
    assert trained(source, [user("a"), assistant(""), user("b"), assistant("c")]) == ["c;"]
    source = "{% for m in messages if m.role == 'user' %}<{{ m.role }}>{{ m.content }};{% endfor %}"
    assert trained(source, TURNS) == []


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_8_training", "lfm2_2_5"])
def test_what_transformers_alone_does_to_messages_is_left_to_it(name: str, trl_template, monkeypatch) -> None:
    """As with a later version: reasoning under another name, say, that this one is told not to know."""
    messages = [user("a"), assistant("b"), user("c"), assistant("d", reasoning="Hm.")]
    expected, *_ = render_jinja_template([messages], chat_template=trl_template(name), **VARIABLES)
    spans = trained(trl_template(name), messages)
    monkeypatch.setattr(traced, "_alias_reasoning", lambda chat: chat)
    template = ChatTemplate(trl_template(name), VARIABLES)
    for _ in range(2):
        rendered = template.render(messages)
        assert rendered.text == expected[0]
        assert [rendered.text[start:end] for start, end in rendered.trained_spans] == spans


# ------------------------------------------------------------------------------------------------ what is chosen

CALLS = [SYSTEM, user("Paris?"), assistant("Wait."), user("And?"), call("Paris"), tool("sunny"), assistant("Sunny.")]


@pytest.mark.parametrize("twin", ["", "_training"])
@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", ["Wait.", "<tool_call>", "Sunny."]),
        ("completion", ["<tool_call>", "Sunny."]),
        ("last", ["Sunny."]),
    ],
)
def test_train_on(train_on: TrainOn, expected: list[str], twin: str, trl_template) -> None:
    spans = trained(trl_template(f"qwen3_vl{twin}"), CALLS, train_on)
    assert [span[: len(start)] for span, start in zip(spans, expected, strict=True)] == expected
    assert trained(trl_template(f"qwen3_vl{twin}"), [*CALLS, user("Thanks.")], train_on) == spans
    assert trained(trl_template(f"qwen3_vl{twin}"), CALLS[:2], train_on) == []


@pytest.mark.parametrize("twin", ["", "_training"])
def test_all_is_the_whole_text_but_for_messages_that_say_no(twin: str, trl_template) -> None:
    source = trl_template(f"qwen3_vl{twin}")
    text = ChatTemplate(source, VARIABLES).render(CALLS).text
    assert trained(source, CALLS, "all") == [text]
    silent = [
        *CALLS[:2],
        {**CALLS[2], "train": False},
        {**CALLS[3], "weight": 0},
        *CALLS[4:-1],
        {**CALLS[-1], "train": False},
    ]
    removed = "<|im_start|>assistant\nWait.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
    before, _, after = text.partition(removed)
    assert trained(source, silent, "all") == [before, after.removesuffix("<|im_start|>assistant\nSunny.<|im_end|>\n")]


@pytest.mark.parametrize("twin", ["", "_training"])
@pytest.mark.parametrize("no", [{"train": False}, {"weight": 0}, {"weight": 0.0}, {"train": False, "weight": 0}])
def test_messages_that_say_no_are_not_trained(no: dict[str, object], twin: str, trl_template) -> None:
    source = trl_template(f"qwen3_vl{twin}")
    messages = [
        user("a"),
        {**assistant("b"), **no},
        {**user("c"), **no},
        {**assistant("d"), "train": True, "weight": 1},
    ]
    rendered = ChatTemplate(source, VARIABLES).render(messages)
    assert rendered.text == ChatTemplate(source, VARIABLES).render(TURNS).text
    assert trained(source, messages) == ["d<|im_end|>\n"]
    assert trained(source, [*messages, user("e")], "last") == ["d<|im_end|>\n"]
    assert trained(source, messages[:2], "last") == []


def test_the_template_does_not_see_the_switches() -> None:
    source = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    text = ChatTemplate(source).render([{**assistant("a"), "train": True, "weight": 1}]).text
    assert text == '{"role": "assistant", "content": "a"}'


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({**assistant("a"), "weight": 0.5}, "message 1: 'weight' must be 0 or 1, got 0.5"),
        ({**assistant("a"), "weight": -1}, "message 1: 'weight' must be 0 or 1, got -1"),
        ({**assistant("a"), "weight": "1"}, "message 1: 'weight' must be 0 or 1, got '1'"),
        ({**assistant("a"), "train": "no"}, "message 1: 'train' must be true or false, got 'no'"),
        ({**assistant("a"), "train": True, "weight": 0}, "message 1 has 'train': True and 'weight': 0"),
        ({**user("a"), "train": True}, "message 1 is to be trained, but it is the user's"),
        ({**tool("a"), "weight": 1}, "message 1 is to be trained, but it is the tool's"),
    ],
)
def test_switches_that_say_something_else_are_refused(message: dict[str, object], said: str) -> None:
    with pytest.raises(ConversationError, match=said):
        ChatTemplate(PROMPT_IN_LOOP).render([user("x"), message])


def test_tags_that_cannot_be_told_apart_are_refused_only_where_they_must_be() -> None:
    source = "{% generation %}{{ messages }}{% endgeneration %}"
    assert len(trained(source, TURNS)) == 1
    with pytest.raises(TemplateError, match=r"which of the 2 messages .* each of the 1 generation tags"):
        trained(source, TURNS, "last")


# ------------------------------------------------------------------------------------------------ drawn conversations

DRAWN = ["qwen3_5_think", "qwen2_5_vl", "llama3_1", "glm4moe", "gemma3", "gemma4_v5", "deepseekv3", "lfm2_2_5", "phi3"]
pieces = st.sampled_from(
    [
        "same",
        "<|im_start|>assistant\n",
        "<|user|>",
        "<start_of_turn>model\n",
        "assistant",
        "</s>",
        "\n",
        " ",
        "{{ x }}",
    ]
)
texts = st.lists(pieces | st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=6), max_size=4).map("".join)


@pytest.mark.parametrize("name", DRAWN)
@settings(max_examples=25)
@given(said=st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_each_answer_is_trained_and_nothing_of_the_user(name: str, said: list[tuple[str, str]], trl_template) -> None:
    """A letter of the user's and one of the assistant's alphabet stand around what they say."""
    messages = [
        message
        for question, answer in said
        for message in (user(f"\u1680Q{question}Q"), assistant(f"A\u2460{answer}A"))
    ]
    spans = trained(trl_template(name), messages)
    assert len(spans) == len(said)
    for span, (_, answer) in zip(spans, said, strict=True):
        assert f"A\u2460{answer}A" in span
        assert span.count("\u2460") == 1
        assert "Q" not in span.replace(answer, "")
