"""A chat template of an untrusted processor runs in transformers' sandbox, traced or not, and reaches nothing."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from mmdatasets import get_mm_plugin
from mmdatasets.chat.template import ChatTemplate
from mmdatasets.chat.traced import TracedTemplate
from mmdatasets.errors import TemplateError
from mmdatasets.testing.processors import build_processor

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
LOOP = "{% for message in messages %}{{ message.role }}{{ message.content }}{% endfor %}"
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ ('' | attr('__class__')).__mro__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.from_string('{{ 1 }}') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ messages.__class__ }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '%s' | format(messages.__class__) }}",
    "{{ mmdatasets_reports.__class__.__init__.__globals__ }}",
    "{{ mmdatasets_reports._changes.clear() }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as stolen %}",
    "{% extends '/etc/passwd' %}",
]
CHANGES = ["messages.append(1)", "messages.clear()", "messages[0].update(content='x')", "messages[0].pop('role')"]


def test_the_environment_is_the_sandbox_of_transformers():
    environment, template = TracedTemplate(LOOP, {})._compiled
    assert isinstance(environment, ImmutableSandboxedEnvironment)
    assert template.environment is environment
    assert type(environment) is type(chat_template_utils._compile_jinja_template(LOOP).environment)
    assert environment.loader is None


@pytest.mark.parametrize("escape", ESCAPES)
def test_what_is_outside_cannot_be_reached(escape):
    """It is refused, or what the sandbox puts in its place is empty."""
    try:
        text = ChatTemplate(escape + LOOP).render(CHAT).text
    except TemplateError:
        return
    assert text.removeprefix("%s") == "useraassistantb"


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_given_cannot_be_changed(change):
    messages = [dict(message) for message in CHAT]
    with pytest.raises(TemplateError):
        ChatTemplate("{% set _ = " + change + " %}" + LOOP).render(messages)
    assert messages == CHAT


def test_loops_of_the_template_alone_are_bounded():
    with pytest.raises(TemplateError, match=r"[Rr]ange"):
        ChatTemplate("{% for i in range(10 ** 9) %}x{% endfor %}" + LOOP).render(CHAT)


def test_text_of_rows_is_no_template():
    plugin = get_mm_plugin("qwen2_vl", processor=build_processor("qwen2_vl"))
    messages = [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}{{ messages }}"}, CHAT[1]]
    ids = plugin.transform({"messages": [messages]})["input_ids"][0]
    assert "{{ 7 * 7 }}{% raw %}{{ messages }}" in plugin.processor.tokenizer.decode(ids)
