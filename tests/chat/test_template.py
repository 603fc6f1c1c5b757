"""Assistant spans found by rendering equal those that the published generation tags state."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.chat.template import ChatTemplate
from mmdatasets.errors import TemplateError

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
PUBLISHED = ["qwen2_5_vl", "qwen3_vl", "qwen3_instruct_2507", "llama3", "gemma3"]

texts = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12) | st.sampled_from([" a ", "\na"])


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, object]]:
    messages = []
    for _ in range(draw(st.integers(1, 6))):
        messages += [
            {"role": "user", "content": draw(texts.filter(str.strip))},
            {"role": "assistant", "content": draw(texts.filter(str.strip))},
        ]
    return messages[: len(messages) - draw(st.integers(0, 1))]


@pytest.mark.parametrize("name", PUBLISHED)
@settings(max_examples=60)
@given(messages=chats())
def test_spans_equal_the_published_tags(name: str, messages, trl_template) -> None:
    plain = ChatTemplate(trl_template(name), VARIABLES)
    tagged = ChatTemplate(trl_template(f"{name}_training"), VARIABLES)
    assert tagged.has_generation_tags
    assert not plain.has_generation_tags
    expected = tagged.render(messages)
    found = plain.render(messages)
    assert found.text == expected.text
    assert found.assistant_spans == expected.assistant_spans


def test_marks_and_prefixes_agree_on_many_turns(trl_template) -> None:
    template = ChatTemplate(trl_template("qwen2_5_vl"), VARIABLES)
    messages = []
    for index in range(30):
        messages += [
            {"role": "user", "content": "same"},
            {"role": "assistant", "content": "same" if index % 3 else ""},
        ]
    rendered = template.render(messages)
    for index, span in zip(range(1, 60, 2), rendered.assistant_spans, strict=True):
        assert span == template._span_of(messages, index, rendered.text)


def test_turns_with_tool_calls_end_after_them(trl_template) -> None:
    plain, tagged = (ChatTemplate(trl_template(name), VARIABLES) for name in ("qwen3_vl", "qwen3_vl_training"))
    call = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"name": "look", "arguments": {"at": 1}}]}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    messages += [call, {"role": "tool", "content": "found"}, {"role": "assistant", "content": "Done."}]
    messages += [{"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]
    assert plain.render(messages).assistant_spans == tagged.render(messages).assistant_spans


def test_a_template_that_changes_the_past_is_refused() -> None:
    source = "{% for m in messages %}[{{ loop.index if loop.last else '' }}{{ m.role }}:{{ m.content }}]{% endfor %}"
    messages = [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]
    with pytest.raises(TemplateError, match=r"cannot find the end of assistant message 1.*generation"):
        ChatTemplate(source).render(messages)


def test_a_template_that_fails_names_the_roles() -> None:
    source = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TemplateError, match="conversation of user, user: roles must alternate"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}] * 2)
